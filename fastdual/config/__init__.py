"""The configs of runs: checked sections, recipes, and the origin of each value."""

from fastdual.config.finetune import FinetuneConfig
from fastdual.config.sections import PretrainConfig, resolve

__all__ = ["FinetuneConfig", "PretrainConfig", "resolve"]
