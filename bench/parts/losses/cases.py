"""What bench.losses compares: the inputs, contestants and arithmetic of each loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.parts.losses import contestants, eager
from fastdual import losses
from fastdual.kernels.dispatch import Backend

TEMPERATURE = 0.07
SEGMENTS = 2  # as in the paper

Loss = Callable[..., Tensor]
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One loss. Its size N counts rows of the logit matrix, in shuffle-rank samples."""

    name: str
    make_inputs: Callable[[int, int, torch.dtype, torch.device], Inputs]  # (N, D, dtype, device)
    ours: Loss
    truth: Loss  # the reference: any dtype, whole matrix
    eager: Loss  # as training code usually writes it
    others: dict[str, Callable[[], Loss]]  # loads the losses of other libraries
    # Operations of the formula's products in the forward, from (N, D). The gradients need twice as
    # many; what is computed a second time does not count.
    forward_flops: Callable[[int, int], float]


def _unit(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return F.normalize(torch.randn(*shape, device=device), dim=-1).to(dtype)


def _related(first: Tensor) -> Tensor:
    """Return a second view: 0.7 similar on average, as views are in the middle of training."""
    return F.normalize(
        first.float() + _unit(*first.shape, dtype=torch.float32, device=first.device), dim=-1
    ).to(first.dtype)


def _two_views(num_rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    first = _unit(num_rows // 2, dim, dtype=dtype, device=device)
    return first, _related(first)


def _pairs(num_rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    first = _unit(num_rows, dim, dtype=dtype, device=device)
    return first, _related(first)


def _labelled(num_rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    labels = torch.randint(max(2, num_rows // 8), (num_rows,), device=device)
    return _unit(num_rows, dim, dtype=dtype, device=device), labels


def _segments(num_rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    first = _unit(num_rows // 2, SEGMENTS, dim, dtype=dtype, device=device)
    return first, _related(first)


def _shuffled(num_rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    x = _unit(num_rows, SEGMENTS, dim, dtype=dtype, device=device)
    permutation = torch.rand(num_rows, SEGMENTS, device=device).argsort(dim=1)
    return x, _related(x).take_along_dim(permutation[:, :, None], dim=1), permutation


def _square(num_rows: int, dim: int) -> float:
    return 2.0 * num_rows * num_rows * dim


def _open_clip() -> Loss:
    loss = contestants.open_clip_loss()
    return lambda image, text: loss(image, text, 1 / TEMPERATURE)


def _inf_cl() -> Loss:
    """Load Inf-CL's one-directional loss and apply it both ways, as its own trainer does."""
    if not torch.cuda.is_available():
        raise contestants.ContestantMissingError("inf_cl: its kernels need a CUDA device")
    loss = contestants.inf_cl_loss()
    scale = torch.tensor(1 / TEMPERATURE, device="cuda")

    def both(image: Tensor, text: Tensor) -> Tensor:
        head_dim = min(256, image.shape[1])
        to_text = loss(image, text, scale=scale, head_dim=head_dim).mean()
        return (to_text + loss(text, image, scale=scale, head_dim=head_dim).mean()) / 2

    return both


def _clip(backend: Backend) -> Loss:
    loss = losses.ClipLoss(backend=backend)
    return lambda image, text: loss(image, text, 1 / TEMPERATURE)


_ALL = (
    Case(
        name="nt_xent",
        make_inputs=_two_views,
        ours=losses.NTXentLoss(TEMPERATURE),
        truth=losses.NTXentLoss(TEMPERATURE, backend="eager"),
        eager=partial(eager.nt_xent, temperature=TEMPERATURE),
        others={"lightly": partial(contestants.lightly_nt_xent, temperature=TEMPERATURE)},
        forward_flops=_square,
    ),
    Case(
        name="supcon",
        make_inputs=_labelled,
        ours=losses.SupConLoss(TEMPERATURE),
        truth=losses.SupConLoss(TEMPERATURE, backend="eager"),
        eager=partial(eager.supcon, temperature=TEMPERATURE),
        others={
            "pytorch-metric-learning": partial(
                contestants.metric_learning_supcon, temperature=TEMPERATURE
            )
        },
        forward_flops=_square,
    ),
    Case(
        name="clip",
        make_inputs=_pairs,
        ours=_clip("auto"),
        truth=_clip("eager"),
        eager=partial(eager.clip, logit_scale=1 / TEMPERATURE),
        others={"open_clip": _open_clip, "inf_cl": _inf_cl},
        forward_flops=_square,
    ),
    Case(
        name="temporal_coherence",
        make_inputs=_segments,
        ours=losses.TemporalCoherenceLoss(TEMPERATURE),
        truth=losses.TemporalCoherenceLoss(TEMPERATURE, backend="eager"),
        eager=partial(eager.temporal_coherence, temperature=TEMPERATURE),
        others={},
        forward_flops=_square,
    ),
    Case(
        name="shuffle_rank",
        make_inputs=_shuffled,
        ours=losses.ShuffleRankLoss(),
        truth=losses.ShuffleRankLoss(backend="eager"),
        eager=partial(eager.shuffle_rank, temperature=0.05),
        others={},
        forward_flops=lambda samples, dim: 2.0 * samples * (2 * SEGMENTS) ** 2 * dim,
    ),
)
CASES = {case.name: case for case in _ALL}
