"""Parts of bench.method."""
