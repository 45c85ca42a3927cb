"""Batch norm over the clips of all processes, in one graph that torch.compile does not break.

torch's own SyncBatchNorm calls collectives that its compiler cannot trace. This one calls the
functional collectives, which it can. Every process gathers the means and variances of all and
combines them in the same order, so that the running statistics stay equal to the last bit. In the
backward one sum over processes is enough. Processes may hold different numbers of clips.

Letters: C channels, W processes; the input is [N, C, ...].
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import _functional_collectives as collectives

from fastdual.errors import InputError

# torch 2.13 renamed it and warns about the old name, the only one that 2.11 has.
_all_gather = getattr(collectives, "all_gather_single", None) or collectives.all_gather_tensor


class _Synced(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose training statistics are those of all processes' rows together.

    In evaluation, and where there is one process, it is plain batch norm.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Normalise [N, C, ...]; every process calls it at the same time."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        output, mean, variance, count = _SyncedNormalisation.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps
        )
        self._note(mean, variance, count)
        normalised: Tensor = output
        return normalised

    def _note(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics towards those of the batch."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share: float | Tensor = (
                1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
            )
            unbiased = variance * (count / (count - 1))
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.copy_((1 - share) * running + share * new)


class SyncedBatchNorm1d(_Synced, nn.BatchNorm1d):
    """nn.BatchNorm1d over all processes: rows [N, C] or [N, C, L]."""


class SyncedBatchNorm2d(_Synced, nn.BatchNorm2d):
    """nn.BatchNorm2d over all processes: pictures [N, C, H, W]."""


class SyncedBatchNorm3d(_Synced, nn.BatchNorm3d):
    """nn.BatchNorm3d over all processes: clips [N, C, T, H, W]."""


_SYNCED: dict[type[nn.Module], type[_Synced]] = {
    nn.BatchNorm1d: SyncedBatchNorm1d,
    nn.BatchNorm2d: SyncedBatchNorm2d,
    nn.BatchNorm3d: SyncedBatchNorm3d,
}


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """Make every batch norm of a model one over all processes, in place, and return the model.

    Weights, buffers and their names stay as they are.

    Raises:
        InputError: There is a batch norm of another kind, which would stay unsynchronised.
    """
    for name, module in model.named_modules():
        if type(module) in _SYNCED:
            # The class is changed in place: references to the module and its hooks stay valid.
            module.__class__ = _SYNCED[type(module)]
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(
            module, _Synced
        ):
            raise InputError(
                f"{name} is a {type(module).__name__}, whose statistics cannot be those of all "
                "processes together; build the backbone with nn.BatchNorm1d, 2d or 3d, or train "
                "in one process"
            )
    return model


class _SyncedNormalisation(torch.autograd.Function):
    """Output, and mean [C], biased variance [C] and number of values [] over all processes."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        mean, variance, count = _combine(wide)
        scale = torch.rsqrt(variance + eps)
        # One multiplication and one addition per channel: no second pass, half the rounding.
        factor = scale if weight is None else scale * weight
        shift = -mean * factor if bias is None else bias - mean * factor
        output = torch.addcmul(_per_channel(shift, rows), wide, _per_channel(factor, rows))
        ctx.save_for_backward(rows, weight, mean, scale, count)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        # No `to` that changes nothing: it gives the output a second name in a graph of
        # torch.compile, and torch 2.11 then loses its gradient (pytorch#180642).
        if output.dtype != rows.dtype:
            output = output.to(rows.dtype)
        return output, mean, variance, count

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, scale, count = ctx.saved_tensors
        axes = _all_but_channels(rows)
        centred = rows.to(mean.dtype) - _per_channel(mean, rows)
        grad = upstream.to(mean.dtype)
        sums = torch.stack([grad.sum(axes), (grad * centred).sum(axes)])  # [2, C]
        total = sums
        if ctx.needs_input_grad[0]:
            total = collectives.all_reduce(sums, "sum", _group()) / count
        factor = scale if weight is None else scale * weight
        slope = total[1] * scale * scale
        inner = grad - _per_channel(total[0], rows) - centred * _per_channel(slope, rows)
        # Gradients of weight and bias stay local: they are averaged later, with all others.
        return (
            (inner * _per_channel(factor, rows)).to(rows.dtype),
            sums[1] * scale if weight is not None else None,
            sums[0] if ctx.has_bias else None,
            None,
        )


def _combine(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [C], biased variance [C] and number of values [] over all processes' rows."""
    axes = _all_but_channels(rows)
    variance, mean = torch.var_mean(rows, dim=axes, correction=0)
    num_values = rows.numel() // rows.shape[1]
    own = torch.stack([mean, variance, torch.full_like(mean, num_values)])
    parts = _all_gather(own[None], 0, _group())  # [W, 3, C]
    means, variances, counts = parts.unbind(1)
    total = counts.sum(0)
    share = counts / total
    # Around the common mean, not from sums of squares: those cancel where the mean is large.
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean) ** 2)).sum(0)
    return mean, variance, total[0]


def _group() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _all_but_channels(rows: Tensor) -> list[int]:
    return [axis for axis in range(rows.ndim) if axis != 1]


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Return values [C] as [1, C, 1, ...], the shape that goes with a tensor."""
    return values.view(-1, *[1] * (like.ndim - 2))
