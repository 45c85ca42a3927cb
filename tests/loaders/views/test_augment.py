"""The augmentation in numpy against the float64 reference, and against the graph of the GPU."""

from dataclasses import replace

import numpy as np
import pytest

from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.views.augment import MEAN, STD, Blur, augment, gaussian
from tests.loaders.views.augment_reference import blur, reference_views
from tests.loaders.views.test_graph import (
    SPECS,
    TOLERANCE,
    build,
    noise_video,
    plan_for,
    run,
)

ODD = ClipSpec(
    frames_per_clip=3, num_segments=3, resize_height=31, resize_width=45, crop_size=29,
    base_probability=1.0, jitter_probability=1.0, blur_probability=1.0,
)  # fmt: skip


def views_of(spec: ClipSpec, plan: ClipPlan) -> np.ndarray:
    """[V, T, H, W, 3] views of the one video of a plan."""
    (wanted,), order = unique_frames(plan.frames)
    shape = (spec.num_views, *spec.clip_shape, 3)
    out = np.full(shape, np.nan, np.float32)
    planes = noise_video(int(plan.videos[0]), spec)[wanted].transpose(0, 3, 1, 2)
    augment(planes, plan, order, spec, out)
    return out


@pytest.mark.parametrize("name", [*SPECS, "odd"])
def test_numpy_is_the_reference_and_the_graph(name: str) -> None:
    spec = {**SPECS, "odd": ODD}[name]
    plan = plan_for(spec, list(range(8)))
    graph = run(build(spec), spec, plan)
    for row in range(8):
        views = views_of(spec, plan[row : row + 1])
        truth = reference_views(noise_video(row, spec), plan[row : row + 1], spec)
        assert np.abs(views - truth).max() < TOLERANCE, row
        assert np.abs(views - graph[row].numpy()).max() < 2 * TOLERANCE, row


def test_the_papers_sizes_are_the_reference() -> None:
    spec = ClipSpec(base_probability=1.0, jitter_probability=1.0, blur_probability=1.0)
    plan = plan_for(spec, [3])
    truth = reference_views(noise_video(3, spec), plan, spec)
    assert np.abs(views_of(spec, plan) - truth).max() < TOLERANCE


def test_the_strongest_jitter_is_the_reference() -> None:
    spec = replace(SPECS["always"], blur_probability=0.0)
    plan = plan_for(spec, [0])
    for values in ((1.8, 1.8, 1.8, 72.0), (1.8, 1.8, 1.8, -72.0), (0.2, 0.2, 0.2, 10.0)):
        plan.jitter[:] = values
        truth = reference_views(noise_video(0, spec), plan, spec)
        views = views_of(spec, plan)
        assert np.abs(views - truth).max() < TOLERANCE
        if values[0] > 1:  # the clamp takes part
            assert (np.abs(truth - truth.max(axis=(0, 1, 2, 3))) < 1e-9).mean() > 0.05


@pytest.mark.parametrize(("about", "blank"), [("mean", False), ("128", True)])
def test_strong_contrast_leaves_a_dark_video_visible(about: str, blank: bool) -> None:
    """Contrast of 1.8 about 128 blackens all below 57; the released code's is about the mean."""
    spec = replace(ODD, mode="finetune", contrast_about=about)
    plan = plan_for(spec, [0])
    plan.jitter[:] = (1.0, 1.8, 1.0, 0.0)
    shape = (2, 3, spec.resize_height, spec.resize_width)
    dark = np.random.default_rng(0).integers(0, 57, shape, dtype=np.uint8)
    out = np.empty((1, *spec.clip_shape, 3), np.float32)
    augment(dark, plan, np.zeros((1, 1, 3), np.int64), spec, out)
    pixels = out * np.float32(STD) + np.float32(MEAN)
    assert (pixels.std() < 1) == blank
    if not blank:
        y, x = plan.crop_y[0, 0], plan.crop_x[0, 0]
        assert abs(pixels.mean() - dark[0, :, y : y + 29, x : x + 29].mean()) < 4  # clamped at 0


@pytest.mark.parametrize(("views", "places"), [((0, 1), [0, 1]), ((0, 2, 3), [0, 2, 3])])
def test_views_that_are_left_out_change_no_bit_of_the_others(
    views: tuple[int, ...], places: list[int]
) -> None:
    whole, part = SPECS["pretrain"], replace(SPECS["pretrain"], views=views)
    for video in range(4):
        ours, all_four = (views_of(spec, plan_for(spec, [video])) for spec in (part, whole))
        assert np.array_equal(ours, all_four[places])


def test_a_view_without_blur_or_jitter_is_exact() -> None:
    spec = replace(SPECS["pretrain"], jitter_probability=0.0, blur_probability=0.0)
    plan = plan_for(spec, [0])
    truth = reference_views(noise_video(0, spec), plan, spec)
    assert np.abs(views_of(spec, plan) - truth).max() < 5e-7  # one rounding, no filter


@pytest.mark.parametrize("size", [1, 2, 5, 8, 33])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.0])
def test_the_blur_mirrors_at_the_border_of_any_size(size: int, sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=(2, size, size, 3))
    planes = np.ascontiguousarray(values.transpose(3, 0, 1, 2), np.float32)
    largest = np.abs(planes).max()
    Blur.of(sigma, size).apply(planes, np.empty_like(planes))
    if size > len(gaussian(sigma)) // 2:  # numpy's "reflect" is mirrored once, ours as the graph's
        assert np.abs(planes.transpose(1, 2, 3, 0) - blur(values, sigma)).max() < 1e-5
    assert np.abs(planes).max() <= largest + 1e-6
