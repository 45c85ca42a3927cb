"""One pass over some videos: each once, in order, whatever the size of a batch."""

import numpy as np
import pytest

from fastdual.evaluate.passes import one_pass, pictures
from fastdual.loaders.plan import ClipSpec
from tests.evaluate.small import small_index


@pytest.mark.parametrize("batch_size", [2, 3, 99])
def test_each_video_comes_once_and_in_order(batch_size: int) -> None:
    spec = ClipSpec(mode="evaluate", clips_per_video=1, frames_per_clip=2, crop_size=24)
    videos = np.array([3, 4, 9, 10, 21])
    with one_pass(small_index(), spec, videos, batch_size=batch_size, num_workers=1) as loader:
        shown = [video for batch in loader for video in batch.video_ids.tolist()]
    assert shown == videos.tolist()


def test_pictures_go_from_the_start_of_a_video_to_its_end() -> None:
    videos = np.array([0, 5])
    how = {"decode": "nvdec", "num_workers": 1}  # a GPU is not needed for pictures
    ((numbers, shown),) = pictures(small_index(), videos, count=4, side=24, **how)  # type: ignore[arg-type]
    assert numbers == [0, 5]
    assert shown.shape == (2, 4, 3, 24, 24)
    for pair in zip(shown[0], shown[0, 1:], strict=False):
        assert (pair[0] - pair[1]).abs().max() > 0.1
