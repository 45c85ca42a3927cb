"""Parts of bench.soak."""
