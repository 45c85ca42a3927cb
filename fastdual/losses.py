"""Contrastive losses as modules, drop-in for any trainer; fastdual.functional has them as functions.

Arguments that all of them share:

backend: "auto" takes the fused Triton kernels on a CUDA device and streams over column blocks elsewhere;
    "fused" insists on the kernels, with an error where they cannot run; "eager" computes the full
    logit matrix with plain torch operations, for comparison and for double backward.
gather: what the rows of this process are contrasted with. None: the rows of this process. "all": the rows
    of all processes, gathered. "ring": the same numbers, with the rows of one other process in memory at a
    time. Gradients reach the rows of every process, so DDP's average is the gradient of the whole batch.

Shape letters: N rows, M candidates, B videos of this process, V views, S segments, D embedding size.
Importing this module needs torch alone.
"""

from typing import Literal

from torch import Tensor, nn

from fastdual import functional
from fastdual.functional import Backend, DualVarianceResult, Gather, Objective, Positives


class ContrastiveLoss(nn.Module):
    """Multi-positive contrastive softmax over ids and groups: the general form.

    >>> loss = ContrastiveLoss(temperature=0.1)
    >>> query, key = torch.randn(8, 32), torch.randn(20, 32)
    >>> loss(query, key, torch.arange(8), torch.arange(20) % 8).shape
    torch.Size([])
    """

    def __init__(
        self,
        *,
        temperature: float | nn.Parameter = 0.07,
        positives: Positives = "sum",
        reduction: Literal["mean", "sum", "none"] = "mean",
        normalize: bool = False,
        backend: Backend = "auto",
        gather: Gather = None,
    ) -> None:
        """temperature may be a 0-d nn.Parameter, which is then learned; `positives` says how several
        positives of a row combine: "sum" of their probabilities (MIL-NCE) or "mean" of their losses (SupCon).
        """
        super().__init__()
        self.temperature = temperature
        self.positives: Positives = positives
        self.reduction: Literal["mean", "sum", "none"] = reduction
        self.normalize = normalize
        self.backend: Backend = backend
        self.gather: Gather = gather

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_ids: Tensor,
        key_ids: Tensor,
        query_groups: Tensor | None = None,
        key_groups: Tensor | None = None,
    ) -> Tensor:
        """query [N, D], key [M, D], ids and groups [N] and [M] int64 -> 0-d loss, or [N] unreduced."""
        return functional.contrastive_loss(
            query,
            key,
            query_ids,
            key_ids,
            query_groups=query_groups,
            key_groups=key_groups,
            temperature=self.temperature,
            positives=self.positives,
            reduction=self.reduction,
            normalize=self.normalize,
            backend=self.backend,
            gather=self.gather,
        )


class DualVarianceLoss(nn.Module):
    """The loss of the paper (arXiv:2107.01194) with its metrics; see functional.dual_variance_loss."""

    def __init__(
        self,
        *,
        objective: Objective = "clip+rank+coherence",
        backend: Backend = "auto",
        gather: Gather = None,
        clip_temperature: float = 0.07,
        coherence_temperature: float = 0.07,
        rank_temperature: float = 0.05,
        rank_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.objective: Objective = objective
        self.backend: Backend = backend
        self.gather: Gather = gather
        self.clip_temperature = clip_temperature
        self.coherence_temperature = coherence_temperature
        self.rank_temperature = rank_temperature
        self.rank_clip = rank_clip

    def forward(
        self, clip: Tensor, segments: Tensor, permutation: Tensor, video_ids: Tensor
    ) -> DualVarianceResult:
        """clip [B, V, D1], segments [B, V, S, D2], permutation [B, S], video_ids [B] -> all parts, 0-d."""
        return functional.dual_variance_loss(
            clip,
            segments,
            permutation,
            video_ids,
            objective=self.objective,
            clip_temperature=self.clip_temperature,
            coherence_temperature=self.coherence_temperature,
            rank_temperature=self.rank_temperature,
            rank_clip=self.rank_clip,
            backend=self.backend,
            gather=self.gather,
        )
