"""A run goes on after its data changed: as it would have while it ran, or in a new order."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from fastdual.loaders.index import build_index, load_index
from fastdual.loaders.index.changes import compare
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint
from tests.loaders.clips import encode
from tests.runs import arguments, differences, invoke, start, wait_for_steps, write_videos

STEPS = 3 * 3  # 12 videos in batches of 4, 3 epochs


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `videos`, their index and a `run` that was stopped after some steps."""
    folder = tmp_path_factory.mktemp("stopped")
    write_videos(folder / "videos", count=12)
    build_index(folder / "videos", folder / "x.h5", num_workers=1)
    process = start(arguments(folder / "videos", folder / "run"))
    wait_for_steps(process, folder / "run", 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) == 143, process.communicate()
    assert load_checkpoint(find_checkpoint(folder / "run"))["step"] < STEPS
    return folder


@pytest.fixture
def place(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "place")
    return tmp_path / "place"


def resume(place: Path, *more: str, data: str = "videos") -> tuple[str, dict[str, object]]:
    done = invoke(arguments(place / data, place / "run", "--resume", *more))
    assert done.exit_code == 0, done.output
    return done.stderr, load_checkpoint(find_checkpoint(place / "run"))


def test_a_lost_video_is_replaced_and_named_whatever_names_the_data(
    place: Path, tmp_path: Path
) -> None:
    again = shutil.copytree(place, tmp_path / "again")
    for folder in (place, again):
        (folder / "videos" / "video03.mp4").unlink()
    said, state = resume(place)
    assert "changed   since the run began: 1 cannot be used any more (video03.mp4: " in said
    assert "others take the places" in said and "--accept-data-changes" in said
    assert "video03.mp4" in (place / "run" / "quarantine.jsonl").read_text()
    assert state["step"] == STEPS
    # The index names the lost video, the folder no longer: the run is the same.
    said, other = resume(again, data="x.h5")
    assert "1 cannot be used any more (video03.mp4: the file is missing)" in said
    for ignored in ("versions", "config"):
        state.pop(ignored), other.pop(ignored)
    assert differences(state, other) == []
    assert differences(state["data"], load_checkpoint_of(place)["data"]) == []


def load_checkpoint_of(place: Path) -> dict[str, object]:
    return load_checkpoint(find_checkpoint(place / "run"))


def test_a_changed_video_is_replaced_and_an_added_one_left_out(place: Path) -> None:
    encode(place / "videos" / "video05.mp4", 30)
    encode(place / "videos" / "video99.mp4", 12)
    fingerprint = load_index(place / "run" / "index.h5").fingerprint
    said, state = resume(place)
    assert "(video05.mp4: the file was changed after it was indexed)" in said
    assert "1 new (video99.mp4)" in said and "new ones and new labels are left out" in said
    assert state["data"]["fingerprint"] == fingerprint  # type: ignore[index]
    assert "video05.mp4" in (place / "run" / "quarantine.jsonl").read_text()


def test_changes_are_accepted_in_a_new_order(place: Path) -> None:
    for number in range(20, 28):
        encode(place / "videos" / f"video{number}.mp4", 12)
    (place / "videos" / "video00.mp4").unlink()
    before = load_checkpoint_of(place)
    said, state = resume(place, "--accept-data-changes")
    assert "accepted: a new order begins here" in said and "goes on in a new order" in said
    assert state["data"]["num_videos"] == 19 and state["step"] == 3 * 4  # type: ignore[index]
    assert len(load_index(place / "run" / "index.h5")) == 19
    assert before["order"]["index"] != state["order"]["index"]  # type: ignore[index]
    # It is the run's data from now on.
    said, _ = resume(place)
    assert "changed" not in said


def test_fewer_videos_make_fewer_steps_and_the_newest_checkpoint_is_the_new_one(
    place: Path,
) -> None:
    for number in range(8):
        (place / "videos" / f"video{number:02d}.mp4").unlink()
    refused = invoke(arguments(place / "videos", place / "run", "--resume"))
    assert refused.exit_code == 2, refused.output
    assert "8 cannot be used any more" in refused.stderr
    assert "--accept-data-changes" in refused.stderr and "index again" not in refused.stderr
    _, state = resume(place, "--accept-data-changes")
    assert state["step"] == 3 and state["data"]["num_videos"] == 4  # type: ignore[index]


def test_a_run_without_its_index_needs_the_same_data(place: Path) -> None:
    (place / "run" / "index.h5").unlink()
    (place / "videos" / "video03.mp4").unlink()
    refused = invoke(arguments(place / "videos", place / "run", "--resume"))
    assert refused.exit_code == 2 and "--accept-data-changes" in refused.stderr


def test_comparing_names_every_kind_of_change(tmp_path: Path) -> None:
    for name in ("a/0", "a/1", "a/2", "b/3"):
        encode(tmp_path / "v" / f"{name}.mp4", 10)
    before = build_index(tmp_path / "v", tmp_path / "x.h5", num_workers=2)
    (tmp_path / "v" / "a" / "0.mp4").unlink()
    (tmp_path / "v" / "a" / "1.mp4").write_bytes(b"spoilt")
    encode(tmp_path / "v" / "b" / "4.mp4", 10)
    encode(tmp_path / "v" / "b" / "3.mp4", 11)
    now = build_index(tmp_path / "v", tmp_path / "y.h5", num_workers=2)
    changes = compare(before, now)
    assert dict(changes.gone).keys() == {"a/0.mp4", "a/1.mp4", "b/3.mp4"}
    assert "not a video" in dict(changes.gone)["a/1.mp4"]
    assert changes.added == ("b/4.mp4",)
    labels = np.where(before.labels == 0, 1, 0).astype(np.int32)
    from dataclasses import replace

    assert len(compare(before, replace(before, labels=labels)).relabelled) == 4
