"""Parts of bench.readme."""
