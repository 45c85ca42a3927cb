"""A transform of the user's own: what it is given, what becomes of its result, its randomness."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdual.errors import InputError
from fastdual.loaders.batch.clip_batch import ClipBatch
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from tests.loaders.clips import read_frames, read_number

QUICK = {"frames_per_clip": 4, "frame_stride": 1, "crop_size": 32}


def load(index: VideoIndex, transform, *, place: dict | None = None, count: int = 1, **options):
    options = {"batch_size": 4, "num_workers": 1, "seed": 3, **QUICK, **options}
    with ClipLoader(index, transform=transform, **options) as loader:
        if place is not None:
            loader.load_state_dict({**loader.state_dict(), **place})
        batches: list[ClipBatch] = list(islice(loader, count))
    return batches


def test_it_is_given_the_frames_as_they_are(index: VideoIndex) -> None:
    """All of the picture, without jitter, blur or mirroring: the decoded frames in [0, 1]."""
    seen: list[Tensor] = []
    sizes = {"resize_height": 32, "resize_width": 32}
    (batch,) = load(index, lambda view: seen.append(view) or view, **sizes)
    assert [tuple(view.shape) for view in seen] == [(4, 3, 32, 32)] * 8
    for row, video in enumerate(batch.video_ids.tolist()):
        pictures = read_frames(index.path(video), np.arange(index.num_frames[video]), size=(32, 32))
        for view in range(2):
            truth = torch.from_numpy(pictures[batch.plan.frames[row, view]]).permute(0, 3, 1, 2)
            given = seen[2 * row + view]
            assert (given - truth / 255).abs().max() < 1e-5
            assert torch.equal(batch.clips[row, view], given.transpose(0, 1))
            assert read_number(truth[0].permute(1, 2, 0).numpy()) == batch.plan.frames[row, view, 0]


def test_its_result_is_the_batch_whatever_size_it_has(index: VideoIndex) -> None:
    (batch,) = load(index, lambda view: view[:2, :1, 4:, 8:].double(), num_views=3)
    assert batch.clips.shape == (4, 3, 1, 2, 28, 24) and batch.clips.dtype == torch.float64


def test_it_draws_the_same_however_the_batch_is_reached(index: VideoIndex) -> None:
    def noise(view: Tensor) -> Tensor:
        return torch.rand(1, 1, 1, 1).expand(1, 1, 1, 2)

    torch.manual_seed(0)
    first, second = load(index, noise, count=2)
    values = torch.cat([first.clips, second.clips]).flatten()
    assert len(values.unique()) == len(values) / 2  # each view has draws of its own
    before = torch.random.get_rng_state()
    (again,) = load(index, noise, place={"epoch": 0, "step": 1})
    assert torch.equal(before, torch.random.get_rng_state())  # and leaves the user's alone
    assert torch.equal(second.clips, again.clips)
    (other,) = load(index, noise, place={"epoch": 1, "step": 1})
    assert not torch.equal(second.clips, other.clips)


@pytest.mark.parametrize(("result", "named"), [(None, "NoneType"), (torch.zeros(3, 4), "(3, 4)")])
def test_a_wrong_result_is_refused(index: VideoIndex, result: object, named: str) -> None:
    with pytest.raises(InputError) as caught:
        load(index, lambda view: result)
    assert named in str(caught.value) and "[T, C, H, W]" in str(caught.value)
