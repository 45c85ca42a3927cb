"""The demo videos: what the table promises is what the files hold."""

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fastdual.cli import cli
from fastdual.demo.videos import CLASSES, DemoSet, render_video, write_demo
from fastdual.errors import InputError
from tests.packages import av

pytestmark = pytest.mark.needs("av")

SMALL = DemoSet(train_scenes=2, test_scenes=1, frames=12, seed=3)


def write(folder: Path, demo: DemoSet = SMALL) -> list[dict[str, str]]:
    for _ in write_demo(folder, demo):
        pass
    with (folder / "videos.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_scene_shows_every_class_and_stays_on_one_side(tmp_path: Path) -> None:
    rows = write(tmp_path / "videos")
    assert len(rows) == 3 * len(CLASSES)
    train = {row["group"] for row in rows if row["split"] == "train"}
    test = {row["group"] for row in rows if row["split"] == "test"}
    assert train == {"scene00", "scene01"} and test == {"scene02"}
    for scene in train | test:
        assert {row["label"] for row in rows if row["group"] == scene} == set(CLASSES)


def test_files_are_real_videos_of_two_codecs_and_several_sizes(tmp_path: Path) -> None:
    codecs, sizes = set(), set()
    for row in write(tmp_path / "videos"):
        with av.open(str(tmp_path / "videos" / row["path"])) as container:
            codecs.add(container.streams.video[0].codec_context.name)
            frames = list(container.decode(video=0))
        assert 9 <= len(frames) <= 12
        sizes.add((frames[0].height, frames[0].width))
    assert codecs == {"h264", "vp9"} and len(sizes) == 4


def test_a_seed_gives_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    rows = write(tmp_path / "a")
    write(tmp_path / "b")
    write(tmp_path / "c", DemoSet(train_scenes=2, test_scenes=1, frames=12, seed=4))
    for row in rows:
        assert (tmp_path / "a" / row["path"]).read_bytes() == (
            tmp_path / "b" / row["path"]
        ).read_bytes()
    assert any(
        not (tmp_path / "c" / row["path"]).exists()
        or (tmp_path / "a" / row["path"]).read_bytes()
        != (tmp_path / "c" / row["path"]).read_bytes()
        for row in rows
    )


@pytest.mark.parametrize("name", list(CLASSES))
def test_the_shape_moves_in_front_of_a_still_background(name: str) -> None:
    # A texture of the picture's own size leaves the camera no room to pan.
    texture = np.full((64, 64, 3), 0.5)
    video = render_video(np.random.default_rng(0), name, texture, height=64, width=64, frames=48)
    # The light changes slowly over the whole picture; what moves changes a pixel at once.
    change = np.abs(np.diff(video.astype(int), axis=0)).max((0, 3))
    moved = (change > 40).mean()
    assert 0.02 < moved < 0.9


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        next(write_demo(tmp_path, SMALL))
    result = CliRunner().invoke(cli, ["demo", str(tmp_path), "--frames", "8"])
    assert result.exit_code == 2 and "thesis.tex" in result.output
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(InputError, match="frames is 7; it must be at least 8"):
        DemoSet(frames=7)
