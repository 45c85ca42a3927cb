"""The oracle that every loss is held to, and memory that is never innocently zero."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def assert_no_worse_than_eager(
    ours: Tensor, eager: Tensor, truth: Tensor, tolerance: Tensor | float, name: str = ""
) -> None:
    """Our error may not exceed eager's at the same dtype by more than an absolute tolerance.

    `truth` is float64 on the same rounded inputs, so that their rounding is blamed on nobody.
    """
    error = (ours.double() - truth).abs()
    budget = (eager.double() - truth).abs() + tolerance
    assert torch.isfinite(ours).all(), f"{name} is not finite"
    assert (error <= budget).all(), f"{name}: {(error - budget).max().item():.3g} too far off"


@contextmanager
def poisoned_empty() -> Iterator[None]:
    """Within it new memory holds NaN, so that an output that nobody wrote is seen."""

    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def empty(*args: Any, **options: Any) -> Tensor:
            made = make(*args, **options)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return empty

    makers = (torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")
    originals = [getattr(owner, name) for owner, name in makers]
    for owner, name in makers:
        setattr(owner, name, poisoned(getattr(owner, name)))
    try:
        yield
    finally:
        for (owner, name), original in zip(makers, originals, strict=True):
            setattr(owner, name, original)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor):
                self.numel = max(self.numel, part.numel())
        return result
