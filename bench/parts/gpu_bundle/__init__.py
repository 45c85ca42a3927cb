"""Parts of bench.gpu_bundle."""
