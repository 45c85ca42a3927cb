"""The index of a set of videos: built once, then opened, checked and described."""

from fastdual.loaders.index.build import build_index, index_files
from fastdual.loaders.index.file import check_files, load_index, save_index
from fastdual.loaders.index.missing import describe_left_out
from fastdual.loaders.index.open import open_index, summary, verify_index
from fastdual.loaders.index.table import VideoIndex

__all__ = [
    "VideoIndex",
    "build_index",
    "check_files",
    "describe_left_out",
    "index_files",
    "load_index",
    "open_index",
    "save_index",
    "summary",
    "verify_index",
]
