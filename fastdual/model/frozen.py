"""What is only measured stays as it is: no weight and no statistic may move, to the last bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastdual.errors import FailureError


@contextmanager
def kept_frozen(module: nn.Module) -> Iterator[None]:
    """Compare a network after the body with what it was before.

    Raises:
        FailureError: As `check_frozen`.
    """
    before = snapshot(module)
    yield
    check_frozen(module, before)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every weight and statistic."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def check_frozen(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Make sure that nothing moved since the snapshot.

    Args:
        module: The network.
        before: What `snapshot` gave.

    Raises:
        FailureError: Names the first weight or statistic that did.
    """
    state = module.state_dict()
    moved = [name for name in before if not _same(state[name].cpu(), before[name].cpu())]
    if moved:
        raise FailureError(
            f"{len(moved)} frozen weights or statistics moved, first {moved[0]}: the numbers would "
            "not be those of the named weights, so there are none; please report it"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    # A network that has diverged holds nan, which equals nothing; that is said elsewhere.
    return torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
