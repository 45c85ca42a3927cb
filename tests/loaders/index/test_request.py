"""Videos and clips as people name them: the spec and the index that come of it."""

from pathlib import Path

import numpy as np
import pytest

import fastdual
from fastdual.errors import InputError
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.index.request import clip_spec, open_videos
from fastdual.loaders.plan import ClipSpec
from tests.loaders.clips import encode

QUICK = {"frames_per_clip": 4, "frame_stride": 1, "crop_size": 32}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_five_lines_to_a_batch(index: VideoIndex) -> None:
    with fastdual.ClipLoader(str(index.root), batch_size=4, num_workers=1, **QUICK) as loader:
        batch = next(iter(loader))
        view_0, view_1 = batch.clips.unbind(1)
    assert view_0.shape == view_1.shape == (4, 3, 4, 32, 32) and not view_0.equal(view_1)
    assert batch.permutation is None and len(batch) == 4
    assert [loader.index.class_names[label] for label in batch.labels] == [
        Path(loader.index.paths[video]).parent.name for video in batch.video_ids
    ]


def test_videos_may_be_an_index_a_folder_a_list_or_one_file(index: VideoIndex) -> None:
    assert open_videos(index) is index
    assert open_videos(index.root).fingerprint == open_videos(str(index.root)).fingerprint
    files = [index.path(3), str(index.path(0)), index.path(3)]
    few = open_videos(files)
    assert [few.path(video) for video in range(len(few))] == [index.path(0), index.path(3)]
    assert few.num_frames.tolist() == index.num_frames[[0, 3]].tolist()
    one = open_videos(str(index.path(5)))
    assert one.paths == (index.path(5).name,) and one.labels.tolist() == [-1]


def test_what_cannot_be_opened_is_named(index: VideoIndex, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"bad\.mp4: is not a video"):
        open_videos([index.path(0), bad])
    with pytest.raises(InputError, match=r"gone\.mp4: the file is missing"):
        open_videos([tmp_path / "gone.mp4"])
    with pytest.raises(InputError, match="gone does not exist"):
        open_videos(tmp_path / "gone")
    with pytest.raises(InputError, match="list of videos is empty"):
        open_videos([])
    for nothing in ("", None, 5):  # "" is not the folder here
        with pytest.raises(InputError, match=f"videos is {nothing!r}: name a folder"):
            open_videos(nothing)


def test_one_video_is_opened_by_its_name_and_leaves_nothing_behind(tmp_path: Path) -> None:
    video = encode(tmp_path / "videos" / "x.MP4", 12)
    assert open_videos(video).num_frames.tolist() == [12]
    assert not (tmp_path / "cache").exists()


def test_clips_by_keyword() -> None:
    assert clip_spec(None, {}) == ClipSpec(mode="independent", clips_per_video=2)
    assert clip_spec(None, {"num_views": 4}).num_views == 4
    assert clip_spec(None, {"mode": "evaluate"}).num_views == 1
    assert clip_spec(None, {"mode": "pretrain"}) == ClipSpec()
    assert clip_spec(None, {"frames_per_clip": 5}).frames_per_clip == 5
    spec = ClipSpec(mode="finetune")
    assert clip_spec(spec, {}, is_transformed=True) is spec


@pytest.mark.parametrize("crop_size", [1, 8, 56, 112, 224])
def test_the_size_before_the_crop_follows_the_crop(crop_size: int) -> None:
    spec = clip_spec(None, {"crop_size": crop_size, "blur_sigma": (0.0, 0.0)})
    wanted = np.ceil(np.array([128, 171]) * crop_size / 112)
    assert [spec.resize_height, spec.resize_width] == wanted.tolist()
    own = clip_spec(None, {"crop_size": 100, "resize_height": 100})
    assert (own.resize_height, own.resize_width) == (100, 171)


def test_wrong_keywords_are_named() -> None:
    with pytest.raises(TypeError, match="unknown keyword 'frames'; .* frames_per_clip"):
        clip_spec(None, {"frames": 16})
    with pytest.raises(TypeError, match="give crop_size inside the ClipSpec"):
        clip_spec(ClipSpec(), {"crop_size": 32})
    with pytest.raises(TypeError, match="num_views: mode 'pretrain' has its own"):
        clip_spec(None, {"mode": "pretrain", "num_views": 3})
    with pytest.raises(TypeError, match="spec is 8; must be a ClipSpec"):
        clip_spec(8, {})
    for name, value in (("crop_size", 0), ("num_views", 0), ("num_views", "2")):
        with pytest.raises(InputError, match=f"{name} = {value!r}: must be a whole number"):
            clip_spec(None, {name: value})
    with pytest.raises(InputError, match="mode = 'train': choose pretrain, finetune"):
        clip_spec(None, {"mode": "train"})
