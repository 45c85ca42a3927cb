"""From encoded videos to augmented clips."""

from importlib import import_module
from typing import Any

_MODULES = {
    "ClipBatch": "batch.clip_batch",
    "ClipDataset": "dataset",
    "ClipLoader": "loader",
    "ClipSpec": "plan",
    "VideoIndex": "index",
    "open_index": "index",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:  # only when asked for: DALI and torch take seconds to import
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
