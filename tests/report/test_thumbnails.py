"""Film strips: six pictures of each video, none of a video that cannot be decoded."""

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fastdual.report.thumbnails import FRAMES, SIDE, film_strips
from tests.evaluate.small import damage, small_index


def test_strip_shows_six_different_pictures_of_its_video(tmp_path: Path) -> None:
    index = small_index()
    shutil.copytree(index.root, tmp_path / "videos")
    index = replace(index, root=tmp_path / "videos")
    damage(index.path(5))
    strips = film_strips(index, [3, 5, 3, 7], num_workers=1)
    assert strips.keys() == {3, 7}
    for uri in strips.values():
        kind, _, data = uri.partition(",")
        assert kind == "data:image/jpeg;base64"
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=np.float64)
        assert picture.shape == (SIDE, FRAMES * SIDE, 3)
        first, *_, last = np.split(picture, FRAMES, axis=1)
        assert np.abs(first - last).mean() > 1
    assert strips[3] != strips[7]


def test_no_video_has_no_strip() -> None:
    assert film_strips(small_index(), []) == {}
