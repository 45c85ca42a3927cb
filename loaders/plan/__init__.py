"""The plan: what is sampled of a video, and every random decision of a batch."""

from fastdual.loaders.plan.clip_spec import ALL_VIEWS, ClipSpec
from fastdual.loaders.plan.draw import ClipPlan, draw_plan

__all__ = ["ALL_VIEWS", "ClipPlan", "ClipSpec", "draw_plan"]
