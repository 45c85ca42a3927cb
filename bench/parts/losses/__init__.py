"""Parts of bench.losses."""
