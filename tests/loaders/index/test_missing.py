"""What is left out is counted with its reasons, and a tenth of the data only on the user's word."""

import shutil
from pathlib import Path

import pytest

from fastdual.errors import InputError
from fastdual.loaders.index import build_index, describe_left_out, load_index, open_index
from tests.loaders.clips import encode
from tests.runs import arguments, invoke


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos and their index."""
    folder = tmp_path_factory.mktemp("twelve")
    for number in range(12):
        encode(folder / "v" / f"{number:02d}.mp4", 10)
    build_index(folder / "v", folder / "x.h5", num_workers=2)
    return folder


@pytest.fixture
def place(twelve: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(twelve, tmp_path / "place"))


def test_a_lost_file_of_an_index_is_left_out_and_counted(place: Path) -> None:
    (place / "v" / "03.mp4").unlink()
    index = open_index(place / "x.h5")
    assert len(index) == 11 and index.quarantine == (("03.mp4", "the file is missing"),)
    told = "1 of 12 videos are left out: 1 the file is missing (03.mp4)"
    assert describe_left_out(index) == told
    # It is no property of the file: when it is back, so is the video.
    encode(place / "v" / "03.mp4", 10)
    assert len(load_index(place / "x.h5")) == 12


def test_more_than_a_tenth_asks_for_the_users_word(place: Path) -> None:
    (place / "v" / "03.mp4").unlink()
    (place / "v" / "04.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"2 of 12 videos .*--allow-missing") as error:
        open_index(place / "x.h5", allow_missing=False)
    assert "\n" not in str(error.value)
    assert len(open_index(place / "x.h5")) == 10


def test_all_lost_says_where_they_may_be(place: Path) -> None:
    shutil.rmtree(place / "v")
    with pytest.raises(InputError, match=r"none of the 12 videos .*--root"):
        open_index(place / "x.h5", root=place / "v")


def test_a_run_says_at_its_start_what_is_left_out_and_lists_it(place: Path) -> None:
    (place / "v" / "03.mp4").write_bytes(b"no video")
    for number in range(4, 6):
        (place / "v" / f"{number:02d}.mp4").write_bytes(b"")
    quick = {"schedule__epochs": 1, "schedule__milestones": "[]"}
    refused = invoke(arguments(place / "v", place / "run", **quick))
    assert refused.exit_code == 2, refused.output
    told = "3 of 12 videos are left out: 2 the file is empty (04.mp4, ...); 1 is not a video"
    assert told in refused.stderr and "--allow-missing" in refused.stderr
    assert not (place / "run").exists()
    done = invoke(arguments(place / "v", place / "run", "--allow-missing", **quick))
    assert done.exit_code == 0, done.output
    assert f"left out  {told}" in done.stderr and "left-out.csv" in done.stderr
    listed = (place / "run" / "left-out.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in listed] == ["path", "03.mp4", "04.mp4", "05.mp4"]
