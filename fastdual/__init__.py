"""Self-supervised video pretraining at hardware speed (the method of arXiv:2107.01194)."""

__version__ = "0.1.0"
