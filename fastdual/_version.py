"""The version of fastdual, for whatever records it; imports nothing."""

__version__ = "0.1.0"
