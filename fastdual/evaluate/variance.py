"""How embeddings vary between videos and within one: what the dual representation balances.

Shapes: N videos, K embeddings of each (clips, or segments of a clip), F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Variance:
    """Variances of L2-normalised embeddings, summed over the features.

    Attributes:
        inter: Of the videos' true means, between videos.
        intra: Of the embeddings of one video, on average over the videos.
    """

    inter: float
    intra: float

    @property
    def ratio(self) -> float | None:
        """intra / inter; None where videos do not differ."""
        return self.intra / self.inter if self.inter > 0 else None


def variance(embeddings: Tensor) -> Variance:
    """Return the variance between and within videos, by the analysis of variance.

    What all videos share at a place k (a segment knows its place) counts as neither. The mean of K
    embeddings scatters by intra / K even if all videos are alike; this is subtracted, so that few
    embeddings per video do not look like differences between videos.

    Args:
        embeddings: [N, K, F], N and K at least 2; any length, they are normalised here.
    """
    if embeddings.ndim != 3 or min(embeddings.shape[:2]) < 2:
        raise ValueError(
            f"embeddings are {list(embeddings.shape)}, must be [N, K, F] with N and K at least 2"
        )
    rows = torch.nn.functional.normalize(embeddings.double(), dim=2)
    rows = rows - rows.mean(dim=0)
    intra = float(rows.var(dim=1).sum(dim=1).mean())
    of_means = float(rows.mean(dim=1).var(dim=0).sum())
    return Variance(inter=max(0.0, of_means - intra / rows.shape[1]), intra=intra)
