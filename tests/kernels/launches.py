"""Counts what a GPU would launch, by interpreting the kernels."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


@contextmanager
def triton_launches() -> Iterator[list[str]]:
    """Names of the kernels that are interpreted within it."""
    from triton.runtime import interpreter

    launches: list[str] = []
    launch = interpreter.GridExecutor.__call__

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        launches.append(self.fn.__name__)
        with _disable_current_modes():  # what the interpreter does is no launch
            return launch(self, *args, **options)

    interpreter.GridExecutor.__call__ = counted
    try:
        yield launches
    finally:
        interpreter.GridExecutor.__call__ = launch


class TorchLaunches(TorchDispatchMode):
    """Names of torch's own operations that launch a kernel on a GPU: all but views and empties."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name()
        if name in OPDEFS:  # what an op of ours calls besides its kernels counts as well
            with self:
                return OPDEFS[name]._init_fn(*args, **kwargs or {})
        free = function.is_view or "empty" in name or name == "aten::_unsafe_view"
        if not free:
            self.names.append(name)
        return function(*args, **kwargs or {})
