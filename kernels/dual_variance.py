"""The loss of the paper (arXiv:2107.01194) and its two contrasts between videos, stateless.

What `backend` and `gather` mean is said in fastdual.losses.
Shape letters: B videos of this process, V views, S segments, D embedding size.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastdual.kernels.backend import refuse_transforms
from fastdual.kernels.checks import (
    as_temperature,
    check_choice,
    check_floating,
    check_ids,
    check_same_device,
    check_views,
)
from fastdual.kernels.contrastive.op import MAX_DIM, Positives
from fastdual.kernels.contrastive.problem import Layout
from fastdual.kernels.dispatch import (
    Backend,
    Gather,
    batch_contrast,
    shuffle_rank_loss_with_metrics,
    widen_mixed,
)
from fastdual.kernels.objective import Objective, Part
from fastdual.kernels.results import ContrastiveResult
from fastdual.kernels.segment_sums.op import segment_sums
from fastdual.kernels.shuffle_rank.checks import as_rank_numbers, check_permutation

CoherenceForm = Literal["mean", "segments"]


class DualVarianceResult(NamedTuple):
    """The paper's loss, its parts and metrics, all 0-d; what the objective leaves out is None.

    Metrics carry no gradient: shares of this process's rows whose positive is first, or among the
    first five, and for `rank_accuracy` of the rows whose match beats all others.
    """

    total: Tensor
    clip: Tensor
    coherence: Tensor | None
    rank: Tensor | None
    clip_top1: Tensor
    clip_top5: Tensor
    coherence_top1: Tensor | None
    coherence_top5: Tensor | None
    rank_accuracy: Tensor | None

    def measured(self) -> dict[str, Tensor]:
        """Return the parts and metrics that the objective has, by name, without the total."""
        return {
            name: value
            for name, value in self._asdict().items()
            if value is not None and name != "total"
        }


def two_view_contrast(
    first: Tensor,
    second: Tensor,
    ids: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = False,
    backend: Backend = "auto",
    gather: Gather = None,
    metrics: bool = True,
) -> ContrastiveResult:
    """NT-Xent: the 2B rows of two views against each other, each row itself left out.

    Args:
        first: [B, D] one view.
        second: [B, D] the other view of the same samples.
        ids: [B] int64 sample of each row; equal ids are positives wherever they stand. None: every
            row is a sample of its own.
        temperature: Softmax divisor.
        normalize: L2-normalise all rows first.
        backend: See fastdual.losses.
        gather: See fastdual.losses.
        metrics: False leaves the metrics out.

    Raises:
        ValueError: If an argument does not fit.
    """
    first, second = widen_mixed(first, second)
    check_views("[B, D]", max_dim=MAX_DIM, first=first, second=second)
    check_same_device(first=first, ids=ids)
    return batch_contrast(
        torch.cat([first, second]),
        ids,
        # Each row is a group of its own, so that it alone is ignored.
        Layout(id_run=1, num_ids=len(first), group_run=1),
        temperature=temperature,
        normalize=normalize,
        backend=backend,
        gather=gather,
        metrics=metrics,
    )


def temporal_coherence_loss_with_metrics(
    first: Tensor,
    second: Tensor,
    ids: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    form: CoherenceForm = "mean",
    positives: Positives = "sum",
    backend: Backend = "auto",
    gather: Gather = None,
    metrics: bool = True,
) -> ContrastiveResult:
    """Contrast between videos on the segments of their clips.

    Args:
        first: [B, S, D] L2-normalised segments of one view.
        second: [B, S, D] those of the other view.
        ids: [B] int64 video of each clip; None: every clip pair is a video of its own.
        temperature: Softmax divisor.
        form: "mean": two clips are as similar as their segments on average over all S x S pairs,
            one row a clip. "segments": every segment is a row, positive are all segments of the
            other clips of its video, those of its own clip are ignored.
        positives: How the positives of a row combine in the form "segments".
        backend: See fastdual.losses.
        gather: See fastdual.losses.
        metrics: False leaves the metrics out.

    Raises:
        ValueError: If an argument does not fit.
    """
    check_choice("form", form, ("mean", "segments"))
    first, second = widen_mixed(first, second)
    check_views("[B, S, D]", max_dim=MAX_DIM, first=first, second=second)
    temperature = as_temperature(temperature)
    check_same_device(first=first, ids=ids)
    clips, num_segments, _ = first.shape
    options: dict[str, Any] = {"backend": backend, "gather": gather, "metrics": metrics}
    if form == "mean":
        if backend == "eager":
            means = first.mean(dim=1), second.mean(dim=1)
            return two_view_contrast(*means, ids, temperature=temperature, **options)
        refuse_transforms(first, second)
        # Summed first, and not normalised: (1/S^2) sum_ij x_i.y_j = (sum x).(sum y) / S^2.
        return batch_contrast(
            segment_sums(first, second),
            ids,
            Layout(id_run=1, num_ids=clips, group_run=1),
            temperature=temperature * num_segments**2,
            **options,
        )
    return batch_contrast(
        torch.cat([first, second]).flatten(0, 1),
        ids,
        Layout(id_run=num_segments, num_ids=clips, group_run=num_segments),
        temperature=temperature,
        positives=positives,
        **options,
    )


def dual_variance_loss(
    clip: Tensor,
    segments: Tensor,
    permutation: Tensor,
    video_ids: Tensor,
    *,
    objective: str = Objective.CLIP_RANK_COHERENCE,
    clip_temperature: float | Tensor = 0.07,
    coherence_temperature: float | Tensor = 0.07,
    rank_temperature: float = 0.05,
    rank_clip: float | None = None,
    backend: Backend = "auto",
    gather: Gather = None,
) -> DualVarianceResult:
    """The loss of the paper (arXiv:2107.01194): clip contrast + shuffle-rank + temporal coherence.

    Args:
        clip: [B, V, D1] L2-normalised clip embeddings; views 0 and 1 are used.
        segments: [B, V, S, D2] L2-normalised segment embeddings; view 3 is view 2 shuffled in time,
            in the order in which the network saw it. V is at least 4 where `objective` has rank.
        permutation: [B, S] int64; segment i of view 3 is segment permutation[i] of view 2.
        video_ids: [B] int64; equal ids are positives of each other.
        objective: The parts of the total, a value of `Objective`.
        clip_temperature: Softmax divisor of the clip contrast.
        coherence_temperature: Softmax divisor of the temporal coherence.
        rank_temperature: Divisor inside the softplus of the shuffle-rank loss.
        rank_clip: Largest argument of that softplus; None for no limit.
        backend: See fastdual.losses.
        gather: See fastdual.losses; the shuffle-rank loss needs none.

    Raises:
        ValueError: If an argument does not fit.
    """
    check_choice("objective", objective, Objective)
    losses = Objective(objective).parts
    clip_temperature = as_temperature(clip_temperature, "clip_temperature")
    coherence_temperature = as_temperature(coherence_temperature, "coherence_temperature")
    rank_temperature, rank_clip = as_rank_numbers(rank_temperature, rank_clip, prefix="rank_")
    _check_views(clip, segments, video_ids, views=4 if Part.RANK in losses else 2)
    if Part.RANK in losses:
        check_permutation(permutation, segments[:, 0])
    contrast = two_view_contrast(
        clip[:, 0],
        clip[:, 1],
        video_ids,
        temperature=clip_temperature,
        backend=backend,
        gather=gather,
    )
    measured = _named(Part.CLIP, contrast)
    if Part.COHERENCE in losses:
        coherence = temporal_coherence_loss_with_metrics(
            segments[:, 0],
            segments[:, 1],
            video_ids,
            temperature=coherence_temperature,
            backend=backend,
            gather=gather,
        )
        measured |= _named(Part.COHERENCE, coherence)
    if Part.RANK in losses:
        # Views 0 and 2 against the same shuffled view in one call: its mean over 2B samples is the
        # paper's two terms, weighted by 1/2 each.
        measured["rank"], measured["rank_accuracy"] = shuffle_rank_loss_with_metrics(
            torch.cat([segments[:, 0], segments[:, 2]]),
            segments[:, 3].repeat(2, 1, 1),
            permutation.repeat(2, 1),
            temperature=rank_temperature,
            clip=rank_clip,
            backend=backend,
        )
    first, *others = (measured[part] for part in losses)
    values: dict[str, Any] = dict.fromkeys(DualVarianceResult._fields)
    return DualVarianceResult(**values | measured | {"total": sum(others, start=first)})


def _named(part: Part, result: ContrastiveResult) -> dict[str, Tensor]:
    """Loss and metrics of a contrast under their names in DualVarianceResult."""
    num_valid = result.valid.sum().clamp(min=1)
    return {
        part: result.loss,
        f"{part}_top1": result.top1.sum() / num_valid,
        f"{part}_top5": result.top5.sum() / num_valid,
    }


def _check_views(clip: Tensor, segments: Tensor, video_ids: Tensor, *, views: int) -> None:
    check_floating(clip=clip, segments=segments)
    if clip.ndim != 3 or clip.shape[1] < views:
        raise ValueError(f"clip has shape {list(clip.shape)}, must be [B, V, D] with V >= {views}")
    if segments.ndim != 4 or segments.shape[:2] != clip.shape[:2]:
        raise ValueError(
            f"segments has shape {list(segments.shape)}, must be [{clip.shape[0]}, "
            f"{clip.shape[1]}, S, D] to fit clip"
        )
    check_ids("video_ids", video_ids, clip.shape[0], "clip")
    check_same_device(clip=clip, segments=segments, video_ids=video_ids)
