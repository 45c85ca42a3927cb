"""What the child process of the tests does, in which the contrastive kernels are interpreted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from fastdual import losses
from fastdual.kernels.contrastive import problem
from fastdual.kernels.contrastive.problem import Layout
from fastdual.kernels.contrastive.triton_shared import Side, is_special
from fastdual.kernels.shuffle_rank import loss as shuffle_rank
from tests.kernels.contrastive.cases import Case, evaluate, fused, make_inputs
from tests.kernels.launches import TorchLaunches, triton_launches
from tests.numerics import poisoned_empty


def outcome(case: Case) -> tuple[Tensor, ...]:
    """What the case gives, every number of it written."""
    with poisoned_empty():
        return tuple(evaluate(fused(case), case, make_inputs(case)))


def flagged_outcome(case: Case) -> tuple[Tensor, ...]:
    """The same, worked off with flags however few the logits are."""
    problem.FEW_LOGITS, few = 0, problem.FEW_LOGITS
    try:
        return outcome(case)
    finally:
        problem.FEW_LOGITS = few


def launches_of(case: Case) -> int:
    """How many kernels a case launches."""
    with triton_launches() as launches:
        outcome(case)
    return len(launches)


def launches_of_losses() -> dict[str, int]:
    """Forward and backward of each loss on the paper's 128 rows: torch's launches and Triton's."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        x = F.normalize(torch.randn(*shape, generator=generator), dim=-1)
        return x.requires_grad_()

    first, second = leaf(64, 128), leaf(64, 128)
    clips, others = leaf(64, 2, 64), leaf(64, 2, 64)
    scale = torch.tensor(10.0, requires_grad=True)
    learned = losses.NTXentLoss(torch.nn.Parameter(torch.tensor(0.1)))
    permutation = torch.tensor([[1, 0]]).expand(64, 2)
    coherence = losses.TemporalCoherenceLoss
    calls: dict[str, tuple[Callable[..., Tensor], list[Tensor], list[Any]]] = {
        "NT-Xent": (losses.NTXentLoss(), [first, second], []),
        "NT-Xent, learned temperature": (
            lambda first, second, _: learned(first, second),
            [first, second, learned.temperature],
            [],
        ),
        "SupCon": (losses.SupConLoss(), [leaf(128, 128)], [torch.arange(128) // 2]),
        "CLIP": (losses.ClipLoss(), [first, second], [10.0]),
        "CLIP, learned scale": (losses.ClipLoss(), [first, second, scale], []),
        "temporal coherence": (coherence(), [clips, others], []),
        "temporal coherence of segments": (coherence(form="segments"), [clips, others], []),
        "shuffle-rank": (losses.ShuffleRankLoss(), [clips, others], [permutation]),
    }
    counts = {}
    one = torch.ones(())
    for name, (loss, inputs, rest) in calls.items():
        # The values of a permutation are checked on a CPU only.
        with triton_launches() as ours, unchecked_permutations(), TorchLaunches() as torchs:
            torch.autograd.grad(loss(*inputs, *rest), inputs, one)
        counts[name] = len(ours) + len(torchs.names)
    return counts


@contextmanager
def unchecked_permutations() -> Iterator[None]:
    """As on a GPU, where nothing waits for the device."""
    check = shuffle_rank.check_permutation
    shuffle_rank.check_permutation = lambda permutation, x: None
    try:
        yield
    finally:
        shuffle_rank.check_permutation = check


def special_by_place() -> list[tuple[tuple[int, ...], Tensor]]:
    """Of layouts of 140 rows, which tiles of 16 x 8 logits the kernels take for special."""
    found = []
    for layout in (Layout(1, 70, 1), Layout(5, 14, 5), Layout(1, 70, 70), Layout(2, 7, 20)):
        special = torch.zeros((9, 18), dtype=torch.int32)
        side = Side(torch.zeros(140, 16), 16, 140, None, None, None)
        special_kernel[(9, 18)](side, layout, special, BLOCK_OWN=16, BLOCK_OTHER=8)
        found.append((tuple(layout), special.bool()))
    return found


@triton.jit
def special_kernel(
    side, layout, special_ptr, BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr
) -> None:
    """Store is_special of every tile of rows with themselves."""
    own, other = tl.program_id(0), tl.program_id(1)
    special = is_special(
        side, own * BLOCK_OWN, side, other * BLOCK_OTHER, layout, None, BLOCK_OWN, BLOCK_OTHER
    )
    tl.store(special_ptr + own * 18 + other, special.to(tl.int32))
