"""Self-checks of what computes: each fused loss against its reference, and Conv3d in bf16.

A check returns its status and one line on what was found.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fastdual.backbones import create_backbone
from fastdual.doctor.check import Outcome
from fastdual.kernels import reference
from fastdual.kernels.backend import has_triton, runs_triton
from fastdual.kernels.contrastive import loss as contrastive
from fastdual.kernels.shuffle_rank import loss as shuffle_rank
from fastdual.loaders.plan import ClipSpec
from fastdual.training.bf16_check import check_bf16_convolutions

Loss = Callable[..., Tensor]

# Largest error of loss and gradients, relative to the largest true value: float32 sums in another
# order; bfloat16 has 8 bits, and the gradient is rounded to it once.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

# Clips that convolutions are tried with: faults of large inputs are not seen in small ones.
_CLIPS = 64


def check_contrastive() -> Outcome:
    """Check the multi-positive contrastive softmax: loss, both gradients, odd shapes."""
    rows, candidates, dim = 37, 53, 24
    ids = torch.arange(rows)
    key_ids = torch.arange(candidates) % 41

    def loss(op: Loss) -> Loss:
        def run(query: Tensor, key: Tensor) -> Tensor:
            device = query.device
            return op(query, key, ids.to(device), key_ids.to(device), temperature=0.07)

        return run

    return _check_loss(
        loss(contrastive.contrastive_loss),
        loss(reference.contrastive_loss),
        [_unit_rows(rows, dim, seed=1), _unit_rows(candidates, dim, seed=2)],
    )


def check_shuffle_rank() -> Outcome:
    """Check the shuffle-rank loss: loss, both gradients, three segments."""
    permutation = torch.stack([torch.randperm(3, generator=_generator(b)) for b in range(9)])

    def loss(op: Loss) -> Loss:
        return lambda x, shuffled: op(x, shuffled, permutation.to(x.device), temperature=0.05)

    return _check_loss(
        loss(shuffle_rank.shuffle_rank_loss),
        loss(reference.shuffle_rank_loss),
        [_unit_rows(27, 40, seed=seed).view(9, 3, 40) for seed in (3, 4)],
    )


def check_conv3d() -> Outcome:
    """Compare the bf16 convolutions of R(2+1)D on the GPU with fp32, as training does first."""
    clip_shape, device = ClipSpec().clip_shape, torch.device("cuda")
    network = create_backbone("r2plus1d", clip_shape=clip_shape).to(device)
    report = check_bf16_convolutions(network, (_CLIPS, *clip_shape), device)
    if report.wrong:
        return "wrong", (
            f"{report.wrong[0]} ({len(report.wrong)} in all): upgrade cuDNN to 9.15 or newer, or "
            "train with --set run.precision=fp32"
        )
    return "ok", (
        f"{report.checked} convolutions agree with fp32, in {report.slowdown:.2f} times its time"
    )


def _check_loss(op: Loss, truth: Loss, inputs: list[Tensor]) -> Outcome:
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    found = []
    for dtype in (torch.float32, torch.bfloat16) if on_gpu else (torch.float32,):
        rounded = [x.to(dtype) for x in inputs]
        expected = _loss_and_gradients(truth, [x.double() for x in rounded])
        ours = _loss_and_gradients(op, [x.to(device) for x in rounded])
        pairs = zip(ours, expected, strict=True)
        error = max(_relative_error(a.double().cpu(), b) for a, b in pairs)
        name = str(dtype).removeprefix("torch.")
        if not error <= _TOLERANCES[dtype]:
            return (
                "wrong",
                f"{name}: differs from the reference by {error:.1e} of its largest value",
            )
        found.append(f"{name} {error:.0e}")
    agreement = f"agree with the reference (error {', '.join(found)})"
    if runs_triton(inputs[0].to(device)):
        kernels = "the Triton kernels" if on_gpu else "the Triton kernels, interpreted,"
        return "ok", f"{kernels} {agreement}"
    why = "no CUDA device" if not on_gpu else "Triton is not installed"
    if not has_triton() and not on_gpu:
        why = "no CUDA device and no Triton"
    return "unavailable", f"{why}: torch operations take the kernels' place and {agreement}"


def _loss_and_gradients(loss: Loss, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    value = loss(*leaves)
    value.backward()  # type: ignore[no-untyped-call]
    return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def _relative_error(ours: Tensor, truth: Tensor) -> float:
    """Return the largest difference over the largest true value; nan counts as infinite."""
    difference = (ours - truth).abs().max() / truth.abs().max()
    return float(difference) if bool(difference.isfinite()) else float("inf")


def _unit_rows(count: int, dim: int, *, seed: int) -> Tensor:
    rows = torch.randn(count, dim, generator=_generator(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
