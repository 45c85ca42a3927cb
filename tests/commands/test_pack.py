"""`fastdual pack`: what it writes and prints, that other commands take a pack, its exit codes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.commands import pack as pack_command
from fastdual.loaders.index import load_index
from fastdual.loaders.pack.spool import Spool
from tests.loaders.clips import encode


def run(*arguments: str | Path, command: str = "pack") -> Result:
    return CliRunner().invoke(cli, [command, *map(str, arguments)])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    encode(tmp_path / "videos" / "run" / "a.mp4", 9)
    encode(tmp_path / "videos" / "walk" / "b.mp4", 7)
    (tmp_path / "videos" / "walk" / "bad.mp4").write_text("text")
    return tmp_path / "videos"


def test_a_folder_is_packed_shown_and_verified(videos: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p.h5"
    made = run(videos, "-o", packed, "--size", "33x47", "--gop", "4", "--workers", "1")
    assert made.exit_code == 0, made.output
    assert "frame sizes 48x48 2" in made.stdout  # width x height, as the index prints it
    how = "codec h264, gop 4, quality 18, size 33x47 (height x width), stride 4"
    assert f"packed      {how}; in 1 file" in made.stdout
    assert "walk/bad.mp4: is not a video, or its header is damaged" in made.stdout
    assert "packing videos" in made.stderr and "packing" not in made.stdout
    assert "note: 2 of 2 videos" not in made.stderr
    assert load_index(packed).num_frames.tolist() == [9, 7]
    shown = run(packed, "--show", command="index")
    assert shown.exit_code == 0 and shown.stdout == made.stdout
    for command, what in (("index", "index"), ("pack", "pack")):
        verified = run(packed, "--verify", command=command)
        assert verified.exit_code == 0, verified.output
        assert f"2 videos decode to what the {what} says" in verified.stdout


def test_jobs_and_merge(videos: Path, tmp_path: Path) -> None:
    index, packed = tmp_path / "x.h5", tmp_path / "p.h5"
    run(videos, "-o", index, command="index")
    for job in ("1/2", "2/2"):
        part = run(index, "-o", packed, "--job", job, "--shard-size", "1 MB")
        assert part.exit_code == 0, part.output
    merged = run(index, "-o", packed, "--merge", "--verify")
    assert merged.exit_code == 0, merged.output
    assert "packed      as they were; in 2 files" in merged.stdout
    assert "2 videos decode" in merged.stdout
    assert load_index(packed).paths == ("run/a.mp4", "walk/b.mp4")


def test_an_altered_video_fails_the_verification(videos: Path, tmp_path: Path) -> None:
    packed = tmp_path / "p.h5"
    run(videos, "-o", packed)
    source = load_index(packed).packed
    assert source is not None
    with open(packed, "r+b") as file:
        file.seek(source.shards[0].start + 100)
        file.write(b"damage")
    result = run(packed, "--verify")
    assert result.exit_code == 1
    assert "run/a.mp4: its bytes in the pack" in result.stdout
    assert "1 of 2 videos are not as the pack says" in result.stderr


def test_a_size_that_the_hardware_refuses_is_noted(videos: Path, tmp_path: Path) -> None:
    noted = run(videos, "-o", tmp_path / "p.h5", "--codec", "hevc")
    assert noted.exit_code == 0, noted.output
    assert "note: 2 of 2 videos would be decoded by PyAV even on a GPU: NVDEC refuses hevc" in (
        noted.stderr
    )


def hear_ctrl_c() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, this test suite for instance."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_says_that_nothing_is_lost(tmp_path: Path) -> None:
    first = encode(tmp_path / "videos" / "000.mp4", 100)
    for number in range(1, 120):
        shutil.copy(first, first.with_name(f"{number:03}.mp4"))
    index, packed = tmp_path / "x.h5", tmp_path / "p.h5"
    journal = packed.with_name("p.h5.partial.jsonl")
    run(tmp_path / "videos", "-o", index, command="index")
    command = [sys.executable, "-m", "fastdual", "pack", index, "-o", packed, "--codec", "vp9"]
    with subprocess.Popen(
        [*command, "--workers", "1"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    ) as process:
        try:
            while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
                assert process.poll() is None
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "stopped: what is done is kept, the same command continues from here" in errors
    assert "Traceback" not in errors
    done = journal.read_bytes().count(b"\n") - 1
    assert 2 <= done < 120
    with pytest.MonkeyPatch.context() as patch:
        packed_anew, append = [], Spool.append
        patch.setattr(Spool, "append", lambda *video: packed_anew.append(video) or append(*video))
        assert run(index, "-o", packed, "--codec", "vp9", "--workers", "2").exit_code == 0
    assert len(packed_anew) == 120 - done and len(load_index(packed)) == 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/videos"], "name the pack to write with -o packed.h5"),
        (["{tmp}/absent", "-o", "{tmp}/p.h5"], "absent does not exist"),
        (["{tmp}/videos", "-o", "{tmp}/p.h5", "--size", "128"], "is not like 128x171"),
        (["{tmp}/videos", "-o", "{tmp}/p.h5", "--job", "half"], "is not like 2/8"),
        (["{tmp}/videos", "-o", "{tmp}/p.h5", "--shard-size", "big"], "is not like 50GB"),
        (["{tmp}/videos", "-o", "{tmp}/p.h5", "--job", "3/2"], "job 3/2: name one of 1/2 to 2/2"),
        (["{tmp}/videos", "-o", "{tmp}/p.h5", "--merge", "--job", "1/2"], "the packs as they are"),
        (["{tmp}/videos", "--merge", "--verify"], "--merge writes a pack: name it with -o"),
        (["{tmp}/videos", "--verify", "--gop", "4"], "--verify alone packs nothing: leave out"),
        (["{tmp}/videos", "-o", "{tmp}"], "is a folder: name a file for the pack"),
        (["{tmp}/videos", "-o", "{tmp}/p.h5", "--quality", "99"], "quality of h264 is 99"),
        (["{tmp}/videos", "-o", "{tmp}/videos/run/a.mp4"], "exists and is not a pack"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    videos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.output


def test_the_options_are_the_documented_ones() -> None:
    names = {option for parameter in pack_command.command.params for option in parameter.opts}
    assert names == {
        "source", "-o", "--output", "--size", "--short-side", "--stride", "--gop", "--codec",
        "--quality", "--allow-missing",
        "--shard-size", "--job", "--merge", "--verify", "--root", "--workers", "--timeout",
    }  # fmt: skip
