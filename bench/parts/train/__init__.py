"""Parts of bench.train."""
