"""The arguments of one shuffle-rank loss, as all of its steps pass them on."""

from typing import NamedTuple

from torch import Tensor


class Problem(NamedTuple):
    """Segments of clips and of their shuffled twins, checked already."""

    x: Tensor  # [B, S, D]
    shuffled: Tensor  # [B, S, D]
    permutation: Tensor  # [B, S] int64 or int32
    temperature: float
    clip: float | None
    normalize: bool

    @property
    def num_rows(self) -> int:
        """How many rows are ranked: 2S per sample."""
        return 2 * self.permutation.numel()

    @property
    def num_pairs(self) -> int:
        """How many pairs of a row and another are averaged: 2S - 2 per row."""
        batch, segments = self.permutation.shape
        return 2 * batch * segments * (2 * segments - 2)
