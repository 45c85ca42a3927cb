"""Parts of bench.loader."""
