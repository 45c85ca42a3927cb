"""Mutants of the kernels, and who judges them."""
