"""The losses' formulas, their Triton kernels, and the same steps in torch operations."""
