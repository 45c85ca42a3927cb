"""The loss of the paper (arXiv:2107.01194) and its two contrasts between videos, without state.

fastdual.losses says what `backend` and `gather` mean.
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
    check_permutation,
    check_same_device,
    check_views,
)
from fastdual.kernels.contrastive.loss import batch_problem, run
from fastdual.kernels.contrastive.problem import Layout, Positives, Settings
from fastdual.kernels.dispatch import Backend, Gather, widen_mixed
from fastdual.kernels.objective import DualVarianceSettings, Part
from fastdual.kernels.results import ContrastiveResult, RankResult
from fastdual.kernels.segment_sums.op import segment_sums
from fastdual.kernels.shuffle_rank.loss import shuffle_rank_loss_with_metrics

CoherenceForm = Literal["mean", "segments"]


class DualVarianceResult(NamedTuple):
    """The paper's loss, its parts and metrics, all 0-d; what the objective leaves out is None.

    `total` is the weighted sum of the parts, which are given without their weights.
    Metrics carry no gradient. They are shares of the rows of this process: those whose positive is
    first, or among the first five, and for `rank_accuracy` those whose match beats all others.
    """

    total: Tensor
    clip: Tensor | None
    coherence: Tensor | None
    rank: Tensor | None
    clip_top1: Tensor | None
    clip_top5: Tensor | None
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
    """Return NT-Xent (arXiv:2002.05709): 2B rows of two views against each other, not themselves.

    Args:
        first: [B, D] one view.
        second: [B, D] the other view of the same samples.
        ids: [B] int64 or int32 sample of each row; equal ids are positives wherever they stand.
            None: each row of a view is a sample of its own.
        temperature: Softmax divisor, a float or a 0-d tensor, which gets a gradient.
        normalize: L2-normalise all rows first.
        backend: See fastdual.losses.
        gather: See fastdual.losses.
        metrics: False leaves the metrics out: they are then empty, [0].

    Returns:
        The mean loss, 0-d, and the metrics [2B] of the rows of the first view, then the second.

    Raises:
        ValueError: An argument does not fit.
    """
    first, second = widen_mixed(first, second)
    check_views("[B, D]", first=first, second=second)
    check_same_device(first=first, ids=ids)
    # Each row is a group of its own, so that it alone is ignored.
    layout = Layout(id_run=1, num_ids=len(first), group_run=1)
    settings = Settings(normalize=normalize, metrics=metrics)
    rows = torch.cat([first, second])
    return run(batch_problem(rows, ids, layout, temperature, settings), backend, gather)


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
    """Return the contrast between videos on the segments of their clips (arXiv:2107.01194).

    Args:
        first: [B, S, D] L2-normalised segments of one view.
        second: [B, S, D] those of the other view.
        ids: [B] int64 or int32 video of each clip; None: each pair of clips is a video of its own.
        temperature: Softmax divisor, a float or a 0-d tensor, which gets a gradient.
        form: "mean": two clips are as similar as their segments on average over all S x S pairs,
            one row per clip. "segments": each segment is a row, with all segments of the other
            clips of its video as positives; those of its own clip are ignored.
        positives: How the positives of a row combine in the form "segments".
        backend: See fastdual.losses.
        gather: See fastdual.losses.
        metrics: False leaves the metrics out: they are then empty, [0].

    Returns:
        The mean loss, 0-d, and the metrics of all rows.

    Raises:
        ValueError: An argument does not fit.
    """
    check_choice("form", form, ("mean", "segments"))
    first, second = widen_mixed(first, second)
    check_views("[B, S, D]", first=first, second=second)
    temperature = as_temperature(temperature)
    check_same_device(first=first, ids=ids)
    clips, num_segments, _ = first.shape
    run_length = num_segments if form == "segments" else 1
    if form == "segments":
        rows = torch.cat([first, second]).flatten(0, 1)
    elif backend == "eager":
        rows = torch.cat([first.mean(dim=1), second.mean(dim=1)])
    else:
        refuse_transforms(first, second)
        # Summed first, and not normalised: (1/S^2) sum_ij x_i.y_j = (sum x).(sum y) / S^2.
        rows, temperature = segment_sums(first, second), temperature * num_segments**2
    layout = Layout(id_run=run_length, num_ids=clips, group_run=run_length)
    settings = Settings(positives if form == "segments" else "sum", metrics=metrics)
    return run(batch_problem(rows, ids, layout, temperature, settings), backend, gather)


def dual_variance_loss(
    clip: Tensor,
    segments: Tensor,
    permutation: Tensor | None,
    video_ids: Tensor,
    settings: DualVarianceSettings = DualVarianceSettings(),  # noqa: B008, immutable
    *,
    backend: Backend = "auto",
    gather: Gather = None,
) -> DualVarianceResult:
    """Return the loss of the paper (arXiv:2107.01194): clip contrast, shuffle-rank and coherence.

    Args:
        clip: [B, V, D1] L2-normalised clip embeddings; views 0 and 1 are used.
        segments: [B, V, S, D2] L2-normalised segment embeddings; view 3 is view 2 shuffled in time,
            in the order in which the network saw it. V is at least 4 where the objective has rank.
        permutation: [B, S] int64 or int32; segment i of view 3 is segment permutation[i] of view 2.
            None will do where the objective has no rank.
        video_ids: [B] int64 or int32; equal ids are positives of each other.
        settings: What is added up, and how.
        backend: See fastdual.losses.
        gather: See fastdual.losses; the shuffle-rank loss needs none.

    Returns:
        The total with its parts and metrics, 0-d each.

    Raises:
        ValueError: An argument does not fit.
    """
    settings = settings.checked()
    parts = settings.parts
    _check_views(clip, segments, video_ids, views=4 if Part.RANK in parts else 2)
    measured: dict[str, Tensor] = {}
    if Part.CLIP in parts:
        contrast = two_view_contrast(
            clip[:, 0], clip[:, 1], video_ids,
            temperature=settings.clip_temperature, backend=backend, gather=gather,
        )  # fmt: skip
        measured |= _named(Part.CLIP, contrast)
    if Part.COHERENCE in parts:
        contrast = temporal_coherence_loss_with_metrics(
            segments[:, 0], segments[:, 1], video_ids,
            temperature=settings.coherence_temperature, backend=backend, gather=gather,
        )  # fmt: skip
        measured |= _named(Part.COHERENCE, contrast)
    if Part.RANK in parts:
        if permutation is None:
            raise ValueError(
                f"permutation is None, must be [B, S]: the objective is {str(settings.objective)!r}"
            )
        check_permutation(permutation, segments[:, 0])
        measured["rank"], measured["rank_accuracy"] = two_view_rank(
            segments, permutation, temperature=settings.rank_temperature, clip=settings.rank_clip,
            backend=backend,
        )  # fmt: skip
    first, *others = (settings.weights[part] * measured[part] for part in parts)
    values: dict[str, Any] = dict.fromkeys(DualVarianceResult._fields)
    return DualVarianceResult(**values | measured | {"total": sum(others, start=first)})


def two_view_rank(
    segments: Tensor,
    permutation: Tensor,
    *,
    temperature: float,
    clip: float | None,
    backend: Backend,
) -> RankResult:
    """Return the paper's shuffle-rank loss of views 0 and 2 against the shuffled view 3.

    One call of both views: its mean over 2B samples is the paper's two terms, weighted by 1/2 each.

    Args:
        segments: [B, 4, S, D] L2-normalised, those of view 3 as the network saw them.
        permutation: [B, S] int64 or int32; segment i of view 3 is segment permutation[i] of view 2.
        temperature: Divisor inside the softplus.
        clip: Largest argument of the softplus; None for no limit.
        backend: See fastdual.losses.
    """
    return shuffle_rank_loss_with_metrics(
        torch.cat([segments[:, 0], segments[:, 2]]),
        segments[:, 3].repeat(2, 1, 1),
        permutation.repeat(2, 1),
        temperature=temperature,
        clip=clip,
        backend=backend,
    )


def _named(part: Part, result: ContrastiveResult) -> dict[str, Tensor]:
    """Return loss and metrics of a contrast under their names in DualVarianceResult."""
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
