"""Contrastive losses as modules, drop-in for any trainer; needs torch alone.

Arguments that mean the same everywhere:

backend: "auto" runs the fused Triton kernels on a CUDA device and streams over tiles of the logits
    with torch operations elsewhere; neither stores the logit matrix, memory is O((N + M) D).
    "fused" insists on the kernels. "eager" is the plain formula over the whole matrix: to compare
    with, and the only one that can be differentiated twice.
gather: what the rows of this process are contrasted with under torch.distributed. None: its own
    rows. "all": those of all processes. "ring": the same, and the same numbers, but held one
    process's rows at a time. Gradients reach the rows of every process, so that
    DistributedDataParallel's average is the gradient of the whole batch.
temperature: softmax divisor; a float, or a 0-d nn.Parameter, which the module then learns.

fastdual.functional has the same without state. Shape letters: N rows, M candidates, B videos of
this process, V views, S segments, D embedding size.
"""

from torch import Tensor, nn

from fastdual import functional
from fastdual.kernels.checks import as_temperature
from fastdual.kernels.contrastive.op import Positives, Precision, Reduction
from fastdual.kernels.dispatch import Backend, Gather
from fastdual.kernels.dual_variance import CoherenceForm, DualVarianceResult
from fastdual.kernels.objective import Objective
from fastdual.kernels.shuffle_rank.checks import as_rank_numbers

__all__ = [
    "ClipLoss",
    "ContrastiveLoss",
    "DualVarianceLoss",
    "DualVarianceResult",
    "NTXentLoss",
    "ShuffleRankLoss",
    "SupConLoss",
    "TemporalCoherenceLoss",
]


class ContrastiveLoss(nn.Module):
    """Multi-positive contrastive softmax over ids and groups, the general form of all below.

    Args:
        temperature: See the module's docstring, as for backend and gather.
        positives: "sum" of the probabilities of a row's positives (MIL-NCE), or "mean" of their
            losses (SupCon). The same where a row has one positive.
        reduction: "mean" over the rows with a positive, "sum", or "none" for [N].
        normalize: L2-normalise the embeddings in the same pass.
        precision: Of float32 products on a GPU: "ieee", or "tf32" for tensor cores and 10-bit
            mantissas.
    """

    def __init__(
        self,
        temperature: float | nn.Parameter = 0.07,
        *,
        positives: Positives = "sum",
        reduction: Reduction = "mean",
        normalize: bool = False,
        precision: Precision = "ieee",
        backend: Backend = "auto",
        gather: Gather = None,
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature)
        self.positives = positives
        self.reduction = reduction
        self.normalize = normalize
        self.precision = precision
        self.backend = backend
        self.gather = gather

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_ids: Tensor,
        key_ids: Tensor,
        query_groups: Tensor | None = None,
        key_groups: Tensor | None = None,
    ) -> Tensor:
        """query [N, D], key [M, D], ids and groups [N] and [M] int64 -> 0-d, or [N] unreduced."""
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
            precision=self.precision,
            backend=self.backend,
            gather=self.gather,
        )


class NTXentLoss(nn.Module):
    """SimCLR's loss (arXiv:2002.05709) of two views; called and by default set as lightly's."""

    def __init__(
        self,
        temperature: float | nn.Parameter = 0.5,
        *,
        normalize: bool = True,
        backend: Backend = "auto",
        gather: Gather = None,
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature)
        self.normalize = normalize
        self.backend = backend
        self.gather = gather

    def forward(self, first: Tensor, second: Tensor, ids: Tensor | None = None) -> Tensor:
        """Two views [B, D] of the same samples -> 0-d; ids [B] name samples that occur twice."""
        return functional.two_view_contrast(
            first,
            second,
            ids,
            temperature=self.temperature,
            normalize=self.normalize,
            backend=self.backend,
            gather=self.gather,
            metrics=False,
        ).loss


class SupConLoss(nn.Module):
    """SupCon (arXiv:2004.11362); called and by default set as pytorch-metric-learning's."""

    def __init__(
        self,
        temperature: float | nn.Parameter = 0.1,
        *,
        normalize: bool = True,
        backend: Backend = "auto",
        gather: Gather = None,
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature)
        self.normalize = normalize
        self.backend = backend
        self.gather = gather

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings [N, D], labels [N] int64 -> 0-d; rows of the same label >= 0 are positives."""
        return functional.supcon_loss(
            embeddings,
            labels,
            temperature=self.temperature,
            normalize=self.normalize,
            backend=self.backend,
            gather=self.gather,
        )


class ClipLoss(nn.Module):
    """CLIP's loss (arXiv:2103.00020), image to text and text to image; called as open_clip's."""

    def __init__(self, *, backend: Backend = "auto", gather: Gather = None) -> None:
        super().__init__()
        self.backend = backend
        self.gather = gather

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Features [N, D] L2-normalised, logit_scale one number (1 / temperature) -> 0-d.

        A `logit_bias` moves all logits alike, so it changes nothing, and its gradient is 0. With
        `output_dict`, as open_clip's trainer asks, {"contrastive_loss": the loss}.
        """
        loss = functional.clip_loss(
            image_features, text_features, logit_scale, backend=self.backend, gather=self.gather
        )
        if logit_bias is not None:
            # DistributedDataParallel waits for the gradient of every parameter.
            loss = loss + 0.0 * logit_bias.sum()
        return {"contrastive_loss": loss} if output_dict else loss


class TemporalCoherenceLoss(nn.Module):
    """Contrast between videos on clip segments (arXiv:2107.01194).

    Args:
        form: "mean": clips are compared by their mean segment. "segments": each segment is a row,
            with all segments of the video's other clips as positives and its own clip's ignored.
        positives: How several positives combine, see ContrastiveLoss.
    """

    def __init__(
        self,
        temperature: float | nn.Parameter = 0.07,
        *,
        form: CoherenceForm = "mean",
        positives: Positives = "sum",
        backend: Backend = "auto",
        gather: Gather = None,
    ) -> None:
        super().__init__()
        self.temperature = as_temperature(temperature)
        self.form = form
        self.positives = positives
        self.backend = backend
        self.gather = gather

    def forward(self, first: Tensor, second: Tensor, ids: Tensor | None = None) -> Tensor:
        """Segments [B, S, D] of two views, video ids [B] int64 or None (all different) -> 0-d."""
        return functional.temporal_coherence_loss_with_metrics(
            first,
            second,
            ids,
            temperature=self.temperature,
            form=self.form,
            positives=self.positives,
            backend=self.backend,
            gather=self.gather,
            metrics=False,
        ).loss


class ShuffleRankLoss(nn.Module):
    """A segment's match in the shuffled clip must outrank all other segments (arXiv:2107.01194).

    Args:
        temperature: Divisor inside the softplus, a float.
        clip: Largest argument of the softplus, beyond which the gradient is 0; None for no limit.
        normalize: L2-normalise the segments in the same pass.
    """

    def __init__(
        self,
        temperature: float = 0.05,
        *,
        clip: float | None = None,
        normalize: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.temperature, self.clip = as_rank_numbers(temperature, clip)
        self.normalize = normalize
        self.backend = backend

    def forward(self, x: Tensor, shuffled: Tensor, permutation: Tensor) -> Tensor:
        """x [B, S, D] in order, shuffled [B, S, D]; its segment i is number permutation[b, i]."""
        return functional.shuffle_rank_loss(
            x,
            shuffled,
            permutation,
            temperature=self.temperature,
            clip=self.clip,
            normalize=self.normalize,
            backend=self.backend,
        )


class DualVarianceLoss(nn.Module):
    """The loss of the paper (arXiv:2107.01194) with its metrics: functional.dual_variance_loss."""

    def __init__(
        self,
        *,
        objective: str = Objective.CLIP_RANK_COHERENCE,
        backend: Backend = "auto",
        gather: Gather = None,
        clip_temperature: float | nn.Parameter = 0.07,
        coherence_temperature: float | nn.Parameter = 0.07,
        rank_temperature: float = 0.05,
        rank_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.backend = backend
        self.gather = gather
        self.clip_temperature = as_temperature(clip_temperature, "clip_temperature")
        self.coherence_temperature = as_temperature(coherence_temperature, "coherence_temperature")
        self.rank_temperature, self.rank_clip = as_rank_numbers(
            rank_temperature, rank_clip, prefix="rank_"
        )

    def forward(
        self, clip: Tensor, segments: Tensor, permutation: Tensor, video_ids: Tensor
    ) -> DualVarianceResult:
        """clip [B, V, D1], segments [B, V, S, D2], permutation [B, S], video_ids [B] -> parts."""
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
