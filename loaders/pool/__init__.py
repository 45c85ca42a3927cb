"""Worker processes that may crash or hang without taking the run with them."""

from fastdual.loaders.pool.jobs import TaskFailure
from fastdual.loaders.pool.pool import ProcessPool

__all__ = ["ProcessPool", "TaskFailure"]
