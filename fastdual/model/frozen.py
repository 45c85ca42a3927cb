"""Networks under measurement stay as they are: no weight or statistic moves, to the last bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastdual.errors import FailureError


@contextmanager
def kept_frozen(module: nn.Module) -> Iterator[None]:
    """Make sure that the body of the `with` leaves a network as it was.

    Raises:
        FailureError: As for `check_frozen`.
    """
    before = snapshot(module)
    yield
    check_frozen(module, before)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every weight and statistic, by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def check_frozen(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Make sure that nothing moved since the snapshot.

    Args:
        module: The network.
        before: Result of `snapshot`.

    Raises:
        FailureError: A weight or statistic moved.
    """
    state = module.state_dict()
    # A network that has diverged holds nan, which equals nothing; another check reports that.
    moved = [
        name
        for name, value in before.items()
        if not torch.allclose(state[name].cpu(), value.cpu(), rtol=0.0, atol=0.0, equal_nan=True)
    ]
    if moved:
        raise FailureError(
            f"{len(moved)} frozen weights or statistics moved, first {moved[0]}: the numbers would "
            "not be those of the named weights, so there are none; please report it"
        )
