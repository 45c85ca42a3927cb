"""Contrastive losses as modules, drop-in for any trainer; needs torch alone.

Arguments that mean the same everywhere:

backend: "auto" runs the fused Triton kernels on a CUDA device, and streams over tiles of the logits
    with torch operations elsewhere. Neither stores the matrix of logits: memory is O((N + M) D).
    The kernels take D up to 1,024; wider rows are streamed on a GPU, too, with a warning.
    "fused" insists on the kernels. "eager" is the plain formula over the whole matrix, to compare
    with, and the only backend that can be differentiated twice.
gather: What the rows of this process are contrasted with under torch.distributed. None: its own
    rows. "all": the rows of all processes. "ring": the same rows with the same numbers, held one
    process's rows at a time. Gradients reach the rows of every process, so that the average of
    DistributedDataParallel is the gradient of the whole batch.
normalize: L2-normalise the embeddings in the same pass.
temperature: Softmax divisor; a float, a 0-d nn.Parameter, which the module then learns, or a 0-d
    tensor that you change, `loss.temperature.fill_(0.4)`: a buffer, which moves with the module.

Arguments that do not fit raise a ValueError that names them. fastdual.functional has the same
losses without state. Shape letters: N rows, M candidates, B videos of this process, V views,
S segments, D embedding size.
"""

from inspect import signature
from typing import Any

from torch import Tensor, nn

from fastdual import functional
from fastdual.kernels.checks import as_rank_numbers, as_temperature
from fastdual.kernels.contrastive.problem import Positives, Precision, Reduction
from fastdual.kernels.dispatch import Backend, Gather
from fastdual.kernels.dual_variance import CoherenceForm, DualVarianceResult
from fastdual.kernels.objective import DualVarianceSettings, Objective

__all__ = [
    "ClipLoss", "ContrastiveLoss", "DualVarianceLoss", "DualVarianceResult", "DualVarianceSettings",
    "NTXentLoss", "ShuffleRankLoss", "SupConLoss", "TemporalCoherenceLoss",
]  # fmt: skip


class _Loss(nn.Module):
    """Prints the settings, which every loss keeps under the names of its arguments."""

    _keywords: tuple[str, ...] = ()  # settings that the constructor takes as keywords

    def _keep(self, name: str, value: Any) -> None:
        """Keep a setting: a tensor that is no parameter as a buffer, which moves with us."""
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value)
        else:
            setattr(self, name, value)

    def extra_repr(self) -> str:
        """Return the settings as they were given."""
        names = (*signature(type(self)).parameters, *self._keywords)
        values = ((name, getattr(self, name)) for name in names if name != "settings")
        return ", ".join(
            f"{name}={value.item():.4g} (learned)"
            if isinstance(value, nn.Parameter)
            else f"{name}={value!r}"
            for name, value in values
        )


class _Contrast(_Loss):
    """What all contrasts of one temperature keep."""

    def __init__(self, temperature: float | Tensor, backend: Backend, gather: Gather) -> None:
        super().__init__()
        self._keep("temperature", as_temperature(temperature))
        self.backend, self.gather = backend, gather

    @property
    def _options(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "backend": self.backend, "gather": self.gather}


class ContrastiveLoss(_Contrast):
    """Multi-positive contrastive softmax over ids and groups, the general form of all below.

    Args:
        positives: "sum" of the probabilities of a row's positives (MIL-NCE, arXiv:1912.06430), or
            "mean" of their losses (SupCon, arXiv:2004.11362). They differ from two positives on.
        reduction: "mean" over the rows with a positive, "sum", or "none" for [N].
        precision: Of float32 products on a GPU: "ieee", or "tf32" (tensor cores, 10-bit mantissas).
            None, as for all losses: as torch.set_float32_matmul_precision has it for torch's own.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.07,
        *,
        positives: Positives = "sum",
        reduction: Reduction = "mean",
        normalize: bool = False,
        precision: Precision | None = None,
        backend: Backend = "auto",
        gather: Gather = None,
    ) -> None:
        super().__init__(temperature, backend, gather)
        self.positives, self.reduction = positives, reduction
        self.normalize, self.precision = normalize, precision

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_ids: Tensor,
        key_ids: Tensor,
        query_groups: Tensor | None = None,
        key_groups: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, 0-d, or [N] unreduced.

        Args:
            query: [N, D] rows.
            key: [M, D] candidates.
            query_ids: [N] int64 or int32.
            key_ids: [M]; positive where equal to the row's, and not negative.
            query_groups: [N] int64 or int32, or None.
            key_groups: [M] or None; ignored where equal to the row's, and not negative.
        """
        return functional.contrastive_loss(
            query, key, query_ids, key_ids, query_groups=query_groups, key_groups=key_groups,
            positives=self.positives, reduction=self.reduction, normalize=self.normalize,
            precision=self.precision, **self._options,
        )  # fmt: skip


class NTXentLoss(_Contrast):
    """SimCLR's loss (arXiv:2002.05709) of two views, with the call and the defaults of lightly."""

    def __init__(
        self, temperature: float | Tensor = 0.5, *, normalize: bool = True,
        backend: Backend = "auto", gather: Gather = None,
    ) -> None:  # fmt: skip
        super().__init__(temperature, backend, gather)
        self.normalize = normalize

    def forward(self, first: Tensor, second: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return the loss of two views [B, D] of the same samples, 0-d.

        `ids` [B] int64 names samples that occur twice; None: all are different.
        """
        return functional.two_view_contrast(
            first, second, ids, normalize=self.normalize, metrics=False, **self._options
        ).loss


class SupConLoss(_Contrast):
    """SupCon (arXiv:2004.11362), with the call and the defaults of pytorch-metric-learning."""

    def __init__(
        self, temperature: float | Tensor = 0.1, *, normalize: bool = True,
        backend: Backend = "auto", gather: Gather = None,
    ) -> None:  # fmt: skip
        super().__init__(temperature, backend, gather)
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of embeddings [N, D], 0-d.

        Rows with the same label are positives; labels [N] int64, a negative one has no positive.
        """
        return functional.supcon_loss(embeddings, labels, normalize=self.normalize, **self._options)


class ClipLoss(_Loss):
    """CLIP's loss (arXiv:2103.00020), image to text and text to image, called as open_clip's."""

    def __init__(self, *, backend: Backend = "auto", gather: Gather = None) -> None:
        super().__init__()
        self.backend, self.gather = backend, gather

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss, 0-d.

        Args:
            image_features: [N, D] L2-normalised, and so are text_features.
            logit_scale: 1 / temperature, a float or a tensor of one element.
            logit_bias: It moves all logits alike, so it changes nothing, and its gradient is 0.
            output_dict: Return {"contrastive_loss": the loss}, as open_clip's trainer asks.
        """
        loss = functional.clip_loss(
            image_features, text_features, logit_scale, backend=self.backend, gather=self.gather
        )
        if logit_bias is not None:
            # DistributedDataParallel waits for the gradient of every parameter.
            loss = loss + 0.0 * logit_bias.sum()
        return {"contrastive_loss": loss} if output_dict else loss


class TemporalCoherenceLoss(_Contrast):
    """Contrast between videos on the segments of clips (arXiv:2107.01194).

    Args:
        form: "mean": clips are compared by their mean segments. "segments": each segment is a row,
            with all segments of the video's other clips as positives and its own clip's ignored.
        positives: How several positives combine, see ContrastiveLoss.
    """

    def __init__(
        self, temperature: float | Tensor = 0.07, *, form: CoherenceForm = "mean",
        positives: Positives = "sum", backend: Backend = "auto", gather: Gather = None,
    ) -> None:  # fmt: skip
        super().__init__(temperature, backend, gather)
        self.form, self.positives = form, positives

    def forward(self, first: Tensor, second: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return the loss of the segments [B, S, D] of two views, 0-d.

        `ids` [B] int64 are the videos; None: all are different.
        """
        return functional.temporal_coherence_loss_with_metrics(
            first, second, ids, form=self.form, positives=self.positives, metrics=False,
            **self._options,
        ).loss  # fmt: skip


class ShuffleRankLoss(_Loss):
    """A segment's match in the shuffled clip must outrank all other segments (arXiv:2107.01194).

    Args:
        temperature: Divisor inside the softplus, a float.
        clip: Largest argument of the softplus, beyond which the gradient is 0; None for no limit.
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
        self.normalize, self.backend = normalize, backend

    def forward(self, x: Tensor, shuffled: Tensor, permutation: Tensor) -> Tensor:
        """Return the loss of segments [B, S, D] in order and shuffled, 0-d.

        Shuffled segment i of sample b is segment permutation[b, i] in order; [B, S] int64.
        """
        return functional.shuffle_rank_loss(
            x, shuffled, permutation, temperature=self.temperature, clip=self.clip,
            normalize=self.normalize, backend=self.backend,
        )  # fmt: skip


class DualVarianceLoss(_Loss):
    """The loss of the paper (arXiv:2107.01194).

    Args:
        objective: Which losses are added up: `clip`, `rank` and `coherence`, joined by `+`.
        settings: Other fields of DualVarianceSettings, such as clip_temperature or rank_weight.
    """

    objective: str
    _keywords = DualVarianceSettings._fields[1:]

    def __init__(
        self,
        objective: str = Objective.CLIP_RANK_COHERENCE,
        *,
        backend: Backend = "auto",
        gather: Gather = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.backend, self.gather = backend, gather
        chosen = DualVarianceSettings(str(objective), **settings).checked()
        for name, value in chosen._asdict().items():
            self._keep(name, value)

    def forward(
        self, clip: Tensor, segments: Tensor, permutation: Tensor | None, video_ids: Tensor
    ) -> DualVarianceResult:
        """Return total, parts and metrics.

        Shapes: clip [B, V, D1], segments [B, V, S, D2], permutation [B, S], video_ids [B].
        """
        settings = DualVarianceSettings(
            *(getattr(self, name) for name in DualVarianceSettings._fields)
        )
        return functional.dual_variance_loss(
            clip, segments, permutation, video_ids, settings,
            backend=self.backend, gather=self.gather,
        )  # fmt: skip
