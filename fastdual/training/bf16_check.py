"""Whether this machine computes a network's bf16 convolutions right, and no slower than in fp32.

Some releases of cuDNN return wrong numbers for Conv3d in bf16 (9.8 to 9.10, pytorch#163539), some
releases of torch avoid that at four times the time (2.9, pytorch#166122), and on a CPU gradients
were infinite. A list of versions is soon out of date, so each convolution of a network is computed
both ways, forward and backward, on the shapes that it will get.
"""

import time
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastdual.errors import InputError

# bf16 keeps 8 bits and sums in fp32: an error of some 0.4 % of the norm. Faults are far larger.
_TOLERANCE = 0.03
# Tensor cores make bf16 several times faster; slower than fp32 means that they are not used.
_SLOW = 1.5
_CLIPS = 2


@dataclass(frozen=True)
class ConvolutionReport:
    """The outcome of a check.

    Attributes:
        wrong: A line for each convolution whose output or gradients are off.
        slowdown: Time in bf16 over time in fp32, all convolutions together.
        checked: Different convolutions tried.
    """

    wrong: tuple[str, ...]
    slowdown: float
    checked: int

    @property
    def is_slow(self) -> bool:
        """Whether bf16 costs time instead of saving it."""
        return self.slowdown > _SLOW


def check_bf16_convolutions(
    network: nn.Module, clip_shape: tuple[int, int, int], device: torch.device
) -> ConvolutionReport:
    """Compute each different Conv3d of a network in bf16 and in fp32, on random numbers.

    Args:
        network: Maps clips [N, 3, T, H, W], in fp32, on the device; run once, in evaluation mode,
            and left as it was.
        clip_shape: T, H, W.
        device: Where to compute.
    """
    wrong, seconds, checked = [], {torch.float32: 0.0, torch.bfloat16: 0.0}, 0
    for name, layer, shape in _different_convolutions(network, clip_shape, device):
        checked += 1
        generator = torch.Generator().manual_seed(checked)
        # Rounded first, so that both are given the same numbers.
        clips, weight = (
            (scale * torch.randn(size, generator=generator)).bfloat16().to(device)
            for size, scale in ((shape, 1.0), (layer.weight.shape, layer.weight[0].numel() ** -0.5))
        )
        results = {}
        for dtype in seconds:
            run = _Convolution(layer, clips.to(dtype), weight.to(dtype))
            run()  # the first call chooses an algorithm
            started = _now(device)
            results[dtype] = run()
            seconds[dtype] += _now(device) - started
        pairs = zip(
            ("output", "gradient of the input", "gradient of the weight"),
            results[torch.bfloat16],
            results[torch.float32],
            strict=True,
        )
        for what, ours, truth in pairs:
            error = float((ours.float() - truth).norm() / truth.norm())
            if not error < _TOLERANCE:  # also when it is not a number
                wrong.append(f"{name} {tuple(shape)}: {what} is off by {error:.1%}")
    slowdown = seconds[torch.bfloat16] / max(seconds[torch.float32], 1e-9)
    return ConvolutionReport(tuple(wrong), slowdown, checked)


def require_bf16(
    network: nn.Module, clip_shape: tuple[int, int, int], device: torch.device
) -> None:
    """Refuse to train in a bf16 that is wrong here; warn of one that is slow.

    Args:
        network: As in `check_bf16_convolutions`, like the others.
        clip_shape: T, H, W.
        device: Where to compute.

    Raises:
        InputError: Names the first convolutions that are off.
    """
    report = check_bf16_convolutions(network, clip_shape, device)
    cudnn = None
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    versions = f"torch {torch.__version__}" + (f", cuDNN {cudnn}" if cudnn else "")
    if report.wrong:
        raise InputError(
            f"bf16 convolutions are computed wrongly here ({versions}): "
            f"{'; '.join(report.wrong[:2])} ({len(report.wrong)} in all); set run.precision=fp32, "
            "or take another cuDNN (9.8 to 9.10 are known for it)"
        )
    if report.is_slow:
        warnings.warn(
            f"bf16 convolutions take {report.slowdown:.1f} times as long as in fp32 here "
            f"({versions}); another torch or cuDNN will train faster (torch 2.9 with cuDNN 9.10 is "
            "known for it)",
            stacklevel=2,
        )


class _Convolution:
    """Forward and backward of one convolution in one precision, channels last."""

    def __init__(self, layer: nn.Conv3d, clips: Tensor, weight: Tensor) -> None:
        form = torch.channels_last_3d
        self._clips = clips.contiguous(memory_format=form).requires_grad_()
        self._weight = weight.contiguous(memory_format=form).requires_grad_()
        self._options = (None, layer.stride, layer.padding, layer.dilation, layer.groups)

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        output = nn.functional.conv3d(self._clips, self._weight, *self._options)  # type: ignore[arg-type]
        upstream = torch.linspace(-1, 1, output.numel(), device=output.device)
        clips, weight = torch.autograd.grad(
            output, (self._clips, self._weight), upstream.view(output.shape).to(output.dtype)
        )
        return output.detach(), clips, weight


def _different_convolutions(
    network: nn.Module, clip_shape: tuple[int, int, int], device: torch.device
) -> list[tuple[str, nn.Conv3d, torch.Size]]:
    """Return name, layer and input shape of the convolutions in a forward, each kind once."""
    found: dict[tuple[object, ...], tuple[str, nn.Conv3d, torch.Size]] = {}
    names = {layer: name for name, layer in network.named_modules()}

    def note(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv3d)
        shape = arguments[0].shape
        kind = (shape, layer.weight.shape, layer.stride, layer.padding, layer.dilation)
        found.setdefault(kind, (names[layer], layer, shape))

    hooks = [
        layer.register_forward_pre_hook(note) for layer in names if isinstance(layer, nn.Conv3d)
    ]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(_CLIPS, 3, *clip_shape, device=device))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return list(found.values())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
