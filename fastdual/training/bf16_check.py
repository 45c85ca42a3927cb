"""Whether this machine computes a network's bf16 convolutions right, and no slower than in fp32.

Some releases of cuDNN return wrong numbers for Conv3d in bf16 (9.8 to 9.10, pytorch#163539), some
releases of torch avoid that at four times the time (2.9, pytorch#166122), and on a CPU gradients
were infinite. A list of versions is soon out of date, so each convolution of a network is computed
both ways, forward and backward, on the shapes that it will get: faults and speed depend on the
number of clips as well.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastdual.errors import InputError

# bf16 keeps 8 bits and sums in fp32: an error of some 0.4 % of the norm. Faults are far larger.
_TOLERANCE = 0.03
# Tensor cores make bf16 several times faster; slower than fp32 means that they are not used.
_SLOW = 1.5
_TIMED_CALLS = 3
_RESULTS = ("output", "gradient of the input", "gradient of the weight")


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
    network: nn.Module, clips_shape: tuple[int, int, int, int], device: torch.device
) -> ConvolutionReport:
    """Compute each different Conv3d of a network in bf16 and in fp32, on random numbers.

    Args:
        network: Maps clips [N, 3, T, H, W], in fp32, on the device; run once, in evaluation mode,
            and left as it was.
        clips_shape: N, T, H, W of a forward; N is halved for a layer whose fp32 needs more memory
            than there is.
        device: Where to compute.
    """
    wrong, seconds, checked = [], {torch.float32: 0.0, torch.bfloat16: 0.0}, 0
    for name, layer, shape in _different_convolutions(network, clips_shape, device):
        checked += 1
        generator = torch.Generator(device).manual_seed(checked)
        errors, shape = _compare(layer, shape, generator, seconds)
        for what, error in errors.items():
            if not error < _TOLERANCE:  # also when it is not a number
                wrong.append(f"{name} {tuple(shape)}: {what} is off by {error:.1%}")
    slowdown = seconds[torch.bfloat16] / max(seconds[torch.float32], 1e-9)
    return ConvolutionReport(tuple(wrong), slowdown, checked)


def require_bf16(
    network: nn.Module, clips_shape: tuple[int, int, int, int], device: torch.device
) -> None:
    """Refuse to train in a bf16 that is wrong here; warn of one that is slow.

    Args:
        network: As in `check_bf16_convolutions`, like the others.
        clips_shape: As there.
        device: Where to compute.

    Raises:
        InputError: Names the first convolutions that are off.
    """
    report = check_bf16_convolutions(network, clips_shape, device)
    cudnn = None
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the loader cannot ask for what torch keeps
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


def _compare(
    layer: nn.Conv3d,
    shape: torch.Size,
    generator: torch.Generator,
    seconds: dict[torch.dtype, float],
) -> tuple[dict[str, float], torch.Size]:
    """Return the error of each result of a convolution, and the shape of its input.

    Args:
        layer: The convolution.
        shape: Of its input; N is halved until the memory suffices.
        generator: Of the numbers.
        seconds: The time of a call is added to that of its precision.
    """
    while True:
        try:
            return _compare_at(layer, shape, generator, seconds), shape
        except torch.OutOfMemoryError:
            if shape[0] == 1:
                raise
        shape = torch.Size((shape[0] // 2, *shape[1:]))


def _compare_at(
    layer: nn.Conv3d,
    shape: torch.Size,
    generator: torch.Generator,
    seconds: dict[torch.dtype, float],
) -> dict[str, float]:
    # Rounded first, so that both are given the same numbers.
    clips, weight = (
        (torch.randn(size, generator=generator, device=generator.device) * scale).bfloat16()
        for size, scale in ((shape, 1.0), (layer.weight.shape, layer.weight[0].numel() ** -0.5))
    )
    runs = {dtype: _Convolution(layer, clips.to(dtype), weight.to(dtype)) for dtype in seconds}
    results = {dtype: run() for dtype, run in runs.items()}  # the first call chooses an algorithm
    pairs = zip(_RESULTS, results[torch.bfloat16], results[torch.float32], strict=True)
    errors = {
        what: float((ours.float() - truth).norm() / truth.norm()) for what, ours, truth in pairs
    }
    del results
    times = {dtype: _fastest_call(run, generator.device) for dtype, run in runs.items()}
    for dtype, time_of_call in times.items():
        seconds[dtype] += time_of_call
    return errors


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
    network: nn.Module, clips_shape: tuple[int, int, int, int], device: torch.device
) -> list[tuple[str, nn.Conv3d, torch.Size]]:
    """Return name, layer and input shape of the convolutions in a forward, each kind once."""
    num_clips, *clip_shape = clips_shape
    found: dict[tuple[object, ...], tuple[str, nn.Conv3d, torch.Size]] = {}
    names = {layer: name for name, layer in network.named_modules()}

    def note(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv3d)
        shape = torch.Size((num_clips, *arguments[0].shape[1:]))
        kind = (shape, layer.weight.shape, layer.stride, layer.padding, layer.dilation)
        found.setdefault(kind, (names[layer], layer, shape))

    hooks = [
        layer.register_forward_pre_hook(note) for layer in names if isinstance(layer, nn.Conv3d)
    ]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *clip_shape, device=device))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return list(found.values())


def _fastest_call(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of a few calls."""
    times = []
    for _ in range(_TIMED_CALLS):
        started = _now(device)
        run()
        times.append(_now(device) - started)
    return min(times)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
