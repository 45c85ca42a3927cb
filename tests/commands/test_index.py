"""`fastdual index`: what it prints, where, and its exit codes."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.commands import index as index_command
from fastdual.loaders.index import load_index
from tests.loaders.clips import encode


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["index", *map(str, arguments)])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    encode(tmp_path / "videos" / "run" / "a.mp4", 5)
    encode(tmp_path / "videos" / "walk" / "b.mp4", 7)
    (tmp_path / "videos" / "walk" / "bad.mp4").write_text("text")
    return tmp_path / "videos"


def test_build_show_and_verify(videos: Path, tmp_path: Path) -> None:
    built = run(videos, "-o", tmp_path / "x.h5", "--workers", "1")
    assert built.exit_code == 0, built.output
    assert "videos      2 under" in built.stdout
    assert "walk/bad.mp4: is not a video, or its header is damaged" in built.stdout
    assert "indexing videos" in built.stderr and "indexing" not in built.stdout
    assert load_index(tmp_path / "x.h5").num_frames.tolist() == [5, 7]
    shown = run("--show", tmp_path / "x.h5")
    assert shown.exit_code == 0 and shown.stdout == built.stdout
    verified = run(tmp_path / "x.h5", "--verify")
    assert verified.exit_code == 0
    assert "2 videos decode to what the index says" in verified.stdout


def test_verify_exits_1_and_names_the_video(videos: Path, tmp_path: Path) -> None:
    assert run(videos, "-o", tmp_path / "x.h5").exit_code == 0
    body = bytearray((videos / "run" / "a.mp4").read_bytes())
    body[:200] = bytes(200)
    (videos / "run" / "a.mp4").write_bytes(body)
    result = run(tmp_path / "x.h5", "--verify")
    assert result.exit_code == 1
    assert "run/a.mp4: the file was changed after it was indexed" in result.stdout
    assert result.stderr.strip().endswith("Error: 1 of 2 videos are not as the index says")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/absent", "-o", "{tmp}/x.h5"], "does not exist: name a folder of videos"),
        (["{tmp}/empty", "-o", "{tmp}/x.h5"], "no video in"),
        (["{tmp}/videos"], "-o x.h5"),
        (["--show", "{tmp}/videos/run/a.mp4"], "is not an index of fastdual"),
        (["{tmp}/videos", "-o", "{tmp}/x.h5", "--kind", "csv"], "kind csv reads a CSV file"),
        (["{tmp}/leak.csv", "-o", "{tmp}/x.h5"], "--allow-shared-groups"),
        (["{tmp}/escape.csv", "-o", "{tmp}/x.h5"], "leads out of"),
        (["{tmp}/empty.csv", "-o", "{tmp}/x.h5"], "empty.csv lists no video: it needs columns"),
        (["{tmp}/videos", "-o", "{tmp}/empty"], "empty is a folder: name a file for the index"),
        (
            ["{tmp}/bad", "-o", "{tmp}/x.h5"],
            "a.mp4: is not a video, or its header is damaged): encode them again",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    videos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"no video")
    (tmp_path / "empty.csv").write_text("path,label\n")
    lines = "path,group,split\nvideos/run/a.mp4,g,train\nvideos/walk/b.mp4,g,test\n"
    (tmp_path / "leak.csv").write_text(lines)
    (tmp_path / "escape.csv").write_text("path\n../../etc/passwd.mp4\n")
    result = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    errors = [line for line in result.stderr.splitlines() if not line.startswith("indexing videos")]
    assert len(errors) == 1, result.stderr
    assert not (tmp_path / "x.h5").exists() and not list(tmp_path.rglob("*.partial"))


def test_help_tells_what_to_do() -> None:
    text = run("--help").stdout
    for word in ("SOURCE", "--verify", "--show", "fastdual index videos -o x.h5"):
        assert word in text


def test_the_flags_are_these() -> None:
    names = sorted(parameter.name or "" for parameter in index_command.command.params)
    assert names == [
        "allow_shared_groups",
        "annotations",
        "cache_size",
        "columns",
        "kind",
        "output",
        "root",
        "show",
        "source",
        "timeout",
        "verify",
        "workers",
    ]
