"""Packing: the videos of an index in one file or several, as they are or re-encoded."""

from fastdual.loaders.pack.merge import merge_jobs
from fastdual.loaders.pack.pack import PackOptions, hardware_warning, job_file, pack
from fastdual.loaders.pack.transcode import CODECS, Transcoding

__all__ = [
    "CODECS",
    "PackOptions",
    "Transcoding",
    "hardware_warning",
    "job_file",
    "merge_jobs",
    "pack",
]
