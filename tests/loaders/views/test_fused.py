"""Triton's kernel of the views against float64: interpreted on a CPU, or on a GPU."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdual.loaders.index import VideoIndex, save_index
from tests.loaders.loading import load
from tests.loaders.views.augment_reference import reference_views
from tests.loaders.views.interpreted import CASES, ROWS, VIDEOS, fused_views
from tests.loaders.views.test_graph import TOLERANCE, noise_video, plan_for

pytestmark = [pytest.mark.xdist_group("fused_views"), pytest.mark.needs("triton")]


@pytest.fixture(scope="module")
def interpreted(index: VideoIndex, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/loaders/views/interpreted.py stores."""
    path = tmp_path_factory.mktemp("interpreted") / "views.pt"
    save_index(index, path.with_name("x.h5"))
    files = [str(path.with_name("x.h5")), str(index.root), str(path)]
    command = [sys.executable, "-W", "error", "-m", "tests.loaders.views.interpreted", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run(command, env=environment, check=True, timeout=500)
    made: dict[str, Any] = torch.load(path)
    return made


def assert_right(views: Tensor, name: str, tolerance: float) -> None:
    """Each video's views are the reference's, in its row of the batch; other rows are untouched."""
    spec = CASES[name]
    plan = plan_for(spec, VIDEOS)
    assert views[1].isnan().all()
    for number, row in enumerate(ROWS):
        video = noise_video(VIDEOS[number], spec)
        truth = reference_views(video, plan[number : number + 1], spec)
        assert np.abs(views[row].double().cpu().numpy() - truth).max() < tolerance, (name, row)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_the_reference(interpreted: dict[str, Any], name: str) -> None:
    assert_right(interpreted[name], name, TOLERANCE)


def test_the_batchs_own_dtype_is_rounded_once(interpreted: dict[str, Any]) -> None:
    exact = interpreted["evaluate"]
    assert torch.equal(interpreted["half"].nan_to_num(), exact.half().nan_to_num())


def test_the_shuffled_view_is_view_2_bit_for_bit(interpreted: dict[str, Any]) -> None:
    spec = CASES["four segments"]
    permutation = plan_for(spec, VIDEOS).permutation
    assert permutation is not None
    segments = interpreted["four segments"][ROWS].unflatten(2, (spec.num_segments, -1))
    for row in range(2):
        for place, segment in enumerate(permutation[row]):
            assert torch.equal(segments[row, 3, place], segments[row, 2, segment])


@pytest.mark.needs("av", "nvidia.dali")
@pytest.mark.usefixtures("dali_where_it_can")
def test_a_loader_shows_the_same_by_dali_and_by_the_kernel(
    interpreted: dict[str, Any], index: VideoIndex
) -> None:
    """DALI decodes for both, and PyAV's workers what it cannot."""
    seen = set()
    for ours, (clips, decoders) in zip(load(index, 2), interpreted["batches"], strict=True):
        assert decoders == ours.decoders
        seen |= set(decoders)
        assert (clips - ours.clips).abs().max() < 2 * TOLERANCE
    assert seen == {"dali-cpu", "pyav"}


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_of_a_gpu_is_the_reference(name: str) -> None:
    assert_right(fused_views(CASES[name], torch.float32, "cuda:0"), name, 2e-4)


@pytest.mark.gpu
def test_bfloat16_of_a_gpu_is_rounded_once() -> None:
    name = "odd"
    exact, rounded = (
        fused_views(CASES[name], dtype, "cuda:0") for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(rounded.nan_to_num(), exact.bfloat16().nan_to_num())
