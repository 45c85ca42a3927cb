"""The losses of fastdual.losses without state: plain functions of embeddings.

Every contrast here is one operation, `contrastive_loss`, told by integers what two rows are to each
other: equal *ids* make a positive, equal *groups* make a pair that is ignored, the rest are negatives.
The backends "auto" and "fused" never store the logit matrix: memory is O((N + M) D).

Shape letters: N rows, M candidates, B videos of this process, V views, S segments, D embedding size.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from fastdual.kernels import reference
from fastdual.kernels.reference import ContrastiveResult, RankResult

Backend = Literal["auto", "eager", "fused"]
Gather = Literal["all", "ring"] | None
Objective = Literal["clip", "clip+rank", "clip+rank+coherence"]
Positives = Literal["sum", "mean"]

OBJECTIVES: tuple[Objective, ...] = ("clip", "clip+rank", "clip+rank+coherence")
# Ids and groups made here must not meet those of another process after a gather.
_IDS_PER_PROCESS = 1 << 40


class DualVarianceResult(NamedTuple):
    """Parts of the paper's loss, all 0-d; a part that the objective leaves out is 0. Metrics are detached."""

    total: Tensor
    clip: Tensor
    coherence: Tensor
    rank: Tensor
    clip_top1: Tensor
    clip_top5: Tensor
    coherence_top1: Tensor
    coherence_top5: Tensor
    rank_accuracy: Tensor


def contrastive_loss_with_metrics(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    temperature: float | Tensor,
    positives: Positives = "sum",
    normalize: bool = False,
    backend: Backend = "auto",
    gather: Gather = None,
) -> ContrastiveResult:
    return reference.contrastive_loss_with_metrics(
        query,
        key,
        query_ids,
        key_ids,
        query_groups=query_groups,
        key_groups=key_groups,
        temperature=temperature,
        positives=positives,
        normalize=normalize,
    )


def shuffle_rank_loss_with_metrics(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
    backend: Backend = "auto",
) -> RankResult:
    return reference.shuffle_rank_loss_with_metrics(
        x, shuffled, permutation, temperature=temperature, clip=clip, normalize=normalize
    )


def local_numbers(count: int, *, device: torch.device) -> Tensor:
    """Numbers [count] int64 that no other process of the group hands out: for ids and groups."""
    start = dist.get_rank() * _IDS_PER_PROCESS if dist.is_initialized() else 0
    return torch.arange(start, start + count, device=device)


def two_view_contrast(
    views: Tensor,
    ids: Tensor,
    *,
    temperature: float | Tensor,
    normalize: bool = False,
    backend: Backend = "auto",
    gather: Gather = None,
) -> ContrastiveResult:
    """NT-Xent over the 2B rows of two views.

    Args:
        views: [2, B, D]; row b of both views shows video ids[b].
        ids: [B] int64; equal ids are positives, wherever they stand in the (gathered) batch.
        temperature: Softmax divisor.
        normalize: Whether rows still have to be L2-normalised.
        backend: See fastdual.losses.
        gather: See fastdual.losses.
    """
    rows = views.flatten(0, 1)
    row_ids = ids.repeat(2)
    # A row is in a group of its own, so it alone is left out of its candidates.
    groups = local_numbers(len(rows), device=rows.device)
    return contrastive_loss_with_metrics(
        rows,
        rows,
        row_ids,
        row_ids,
        query_groups=groups,
        key_groups=groups,
        temperature=temperature,
        normalize=normalize,
        backend=backend,
        gather=gather,
    )


def mean_of_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of a per-row metric over the rows that have a positive; 0 if none has."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


def dual_variance_loss(
    clip: Tensor,
    segments: Tensor,
    permutation: Tensor,
    video_ids: Tensor,
    *,
    objective: Objective = "clip+rank+coherence",
    clip_temperature: float = 0.07,
    coherence_temperature: float = 0.07,
    rank_temperature: float = 0.05,
    rank_clip: float | None = None,
    backend: Backend = "auto",
    gather: Gather = None,
) -> DualVarianceResult:
    """The loss of the paper (arXiv:2107.01194) for one batch of this process.

    Args:
        clip: [B, V, D1] L2-normalised clip embeddings; views 0 and 1 are used.
        segments: [B, V, S, D2] L2-normalised segment embeddings; view 3 is view 2 with its segments
            shuffled, as the network saw them.
        permutation: [B, S] int64; segment i of view 3 is segment permutation[i] of view 2.
        video_ids: [B] int64; equal ids are positives of each other.
        objective: Which parts make the total.
        clip_temperature: Softmax divisor of the clip contrast.
        coherence_temperature: Softmax divisor of the temporal coherence.
        rank_temperature: Divisor inside the softplus of the shuffle-rank loss.
        rank_clip: Largest argument of that softplus; None for no limit.
        backend: See fastdual.losses.
        gather: See fastdual.losses.

    Raises:
        ValueError: If a shape does not fit, or the objective is unknown.
    """
    zero = clip.new_zeros((), dtype=torch.float32)
    parts = dict.fromkeys(DualVarianceResult._fields, zero)

    views = clip[:, :2].transpose(0, 1)
    contrast = two_view_contrast(
        views, video_ids, temperature=clip_temperature, backend=backend, gather=gather
    )
    parts["clip"] = contrast.loss
    parts["clip_top1"] = mean_of_valid(contrast.top1, contrast.valid)
    parts["clip_top5"] = mean_of_valid(contrast.top5, contrast.valid)

    if "coherence" in objective:
        # The mean of all S x S similarities of two clips is the product of their segment means.
        means = segments[:, :2].mean(dim=2).transpose(0, 1)
        coherence = two_view_contrast(
            means, video_ids, temperature=coherence_temperature, backend=backend, gather=gather
        )
        parts["coherence"] = coherence.loss
        parts["coherence_top1"] = mean_of_valid(coherence.top1, coherence.valid)
        parts["coherence_top5"] = mean_of_valid(coherence.top5, coherence.valid)

    if "rank" in objective:
        # Views 0 and 2 against the same shuffled segments, in one call: the mean over both is the
        # paper's two terms with weight 1/2 each.
        in_order = torch.cat([segments[:, 0], segments[:, 2]])
        rank = shuffle_rank_loss_with_metrics(
            in_order,
            segments[:, 3].repeat(2, 1, 1),
            permutation.repeat(2, 1),
            temperature=rank_temperature,
            clip=rank_clip,
            backend=backend,
        )
        parts["rank"], parts["rank_accuracy"] = rank

    parts["total"] = parts["clip"] + parts["coherence"] + parts["rank"]
    return DualVarianceResult(**parts)
