"""Parts of bench.kernels."""
