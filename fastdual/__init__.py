"""Self-supervised video pretraining at hardware speed (Inter-intra Variant Dual Representations, arXiv:2107.01194)."""

__version__ = "0.1.0"
