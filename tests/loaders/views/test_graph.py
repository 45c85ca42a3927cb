"""The DALI graph against the float64 reference, and its independence of the batch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.plan import ClipPlan, ClipSpec, draw_plan
from fastdual.loaders.views.graph import (
    ClipGraph,
    frame_order,
    gaussian,
    graph_inputs,
)
from tests.loaders.views.augment_reference import reference_views

# In units of the normalised output. The graph computes in float32 from values up to 255 and
# divides by about 57, over some ten operations: measured 2e-6.
TOLERANCE = 1e-5
NUM_FRAMES = 40


def noise_video(video: int, spec: ClipSpec) -> np.ndarray:
    """[N, h, w, 3] of noise: whatever is taken from the wrong place shows at once."""
    shape = (NUM_FRAMES, spec.resize_height, spec.resize_width, 3)
    return np.random.default_rng(video).integers(0, 256, shape, dtype=np.uint8)


def plan_for(spec: ClipSpec, videos: list[int], seed: int = 1) -> ClipPlan:
    numbers = np.array(videos)
    lengths = np.full(len(numbers), NUM_FRAMES)
    return draw_plan(spec, seed=seed, epoch=0, videos=numbers, num_frames=lengths)


def build(spec: ClipSpec, *, batch: int = 8, threads: int = 1, device: str = "cpu") -> ClipGraph:
    return ClipGraph(
        spec,
        source="frames",
        device=torch.device(device),
        max_batch_size=batch,
        num_threads=threads,
    )


def run(graph: ClipGraph, spec: ClipSpec, plan: ClipPlan) -> Tensor:
    """[B, V, T, H, W, C] of the noise videos that the plan names."""
    wanted, order = unique_frames(plan.frames)
    videos = [noise_video(int(video), spec) for video in plan.videos]
    frames = [video[numbers] for video, numbers in zip(videos, wanted, strict=True)]
    return torch.stack([v.clone() for v in graph.run(plan, order, {"frames": frames}).views], dim=1)


SPECS = {
    "pretrain": ClipSpec(resize_height=40, resize_width=57, crop_size=32),
    "four segments": ClipSpec(resize_height=40, resize_width=57, crop_size=32, num_segments=4),
    "always": ClipSpec(
        resize_height=40,
        resize_width=57,
        crop_size=32,
        base_probability=1.0,
        jitter_probability=1.0,
        blur_probability=1.0,
    ),
    "contrasts alone": ClipSpec(resize_height=40, resize_width=57, crop_size=32, views=(0, 1)),
    "ranking alone": ClipSpec(resize_height=40, resize_width=57, crop_size=32, views=(0, 2, 3)),
    "about 128": ClipSpec(
        resize_height=40,
        resize_width=57,
        crop_size=32,
        jitter_probability=1.0,
        contrast_about="128",
    ),  # fmt: skip
    "nothing to crop": ClipSpec(resize_height=32, resize_width=32, crop_size=32),
    "finetune": ClipSpec(mode="finetune", resize_height=40, resize_width=57, crop_size=32),
    "independent": ClipSpec(
        mode="independent", resize_height=40, resize_width=57, crop_size=32, clips_per_video=3
    ),
    "evaluate": ClipSpec(
        mode="evaluate", resize_height=40, resize_width=57, crop_size=32, clips_per_video=3
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_the_graph_is_the_reference(name):
    spec = SPECS[name]
    plan = plan_for(spec, list(range(8)))
    views = run(build(spec), spec, plan).double().numpy()
    for row in range(8):
        truth = reference_views(noise_video(row, spec), plan[row : row + 1], spec)
        assert views[row].shape == truth.shape
        assert np.abs(views[row] - truth).max() < TOLERANCE, (name, row)


def test_the_papers_sizes_are_the_reference():
    spec = ClipSpec(base_probability=1.0, jitter_probability=1.0, blur_probability=1.0)
    plan = plan_for(spec, [3])
    views = run(build(spec, batch=1), spec, plan).double().numpy()
    assert views.shape == (1, 4, 16, 112, 112, 3)
    assert np.abs(views[0] - reference_views(noise_video(3, spec), plan, spec)).max() < TOLERANCE


def test_every_crop_position_is_exact():
    spec = ClipSpec(
        mode="finetune", frames_per_clip=2, jitter_probability=0.0, crop_size=112, num_segments=1
    )
    plan = plan_for(spec, [0] * 64)
    corners = np.arange(64)
    plan.crop_x[:, 0], plan.crop_y[:, 0] = corners % 60, corners % 17
    plan.flip[:] = False
    views = run(build(spec, batch=64), spec, plan).double().numpy()
    for row in range(60):
        truth = reference_views(noise_video(0, spec), plan[row : row + 1], spec)
        assert np.abs(views[row] - truth).max() < TOLERANCE, row


def test_a_view_without_blur_or_jitter_is_exact():
    spec = ClipSpec(
        resize_height=40, resize_width=57, crop_size=32, jitter_probability=0.0, blur_probability=0
    )
    plan = plan_for(spec, [0, 1])
    views = run(build(spec), spec, plan)
    for row in range(2):
        truth = torch.from_numpy(reference_views(noise_video(row, spec), plan[row : row + 1], spec))
        assert (views[row].double() - truth).abs().max() < 5e-7  # one rounding, no filter


def test_the_shuffled_view_is_view_2_bit_for_bit():
    spec = SPECS["four segments"]
    plan = plan_for(spec, list(range(8)))
    views = run(build(spec), spec, plan)
    length = spec.frames_per_clip // spec.num_segments
    segments = views[:, 2].unflatten(1, (spec.num_segments, length))
    shuffled = views[:, 3].unflatten(1, (spec.num_segments, length))
    for row in range(8):
        for place, segment in enumerate(plan.permutation[row]):
            assert torch.equal(shuffled[row, place], segments[row, segment])


@pytest.mark.parametrize("name", ["pretrain", "finetune", "evaluate"])
def test_a_sample_does_not_depend_on_its_batch(name):
    spec = SPECS[name]
    plan = plan_for(spec, list(range(8)))
    graph = build(spec, threads=2)
    whole = run(graph, spec, plan)
    assert torch.equal(run(graph, spec, plan), whole)
    assert torch.equal(torch.cat([run(graph, spec, plan[:3]), run(graph, spec, plan[3:])]), whole)
    order = np.array([5, 0, 7, 2])
    assert torch.equal(run(build(spec, batch=4), spec, plan[order]), whole[torch.tensor(order)])


def test_gaussian_weights():
    assert gaussian(0.0).tolist() == [1.0]
    assert len(gaussian(0.1)) == 3 and len(gaussian(2.0)) == 13
    weights = gaussian(1.0).astype(np.float64)
    assert abs(weights.sum() - 1) < 1e-7
    assert np.allclose(weights[4] / weights[3], np.exp(-0.5), rtol=1e-6)


def test_frame_order_plays_segments_as_the_permutation_says():
    order = frame_order(np.array([[1, 0], [0, 1]]), 4)
    assert order.tolist() == [[2, 3, 0, 1], [0, 1, 2, 3]]


def test_graph_inputs_have_one_value_a_sample():
    spec = ClipSpec()
    plan = plan_for(spec, [0, 1, 2])
    inputs = graph_inputs(spec, plan, unique_frames(plan.frames)[1])
    assert {len(values) for values in inputs.values()} == {3}


@pytest.mark.gpu
@pytest.mark.needs("nvidia.dali")
@pytest.mark.parametrize("name", SPECS)
def test_the_gpu_graph_is_the_reference(name):
    spec = SPECS[name]
    plan = plan_for(spec, list(range(8)))
    views = run(build(spec, device="cuda:0"), spec, plan).cpu().double().numpy()
    for row in range(8):
        truth = reference_views(noise_video(row, spec), plan[row : row + 1], spec)
        assert np.abs(views[row] - truth).max() < 2e-4, (name, row)  # fused multiply-adds
