"""What is printed is text: names of files cannot move the cursor, or fake lines of their own."""

import ast
import logging
from pathlib import Path

import pytest

from fastdual.console import say, show_log
from fastdual.errors import printable
from tests.conftest import PROJECT
from tests.evaluate.small import small_checkpoint
from tests.loaders.clips import encode
from tests.runs import arguments, invoke

# A name that clears the screen, fakes a line, turns the order of letters, and is no UTF-8.
WILD = "a\x1b[2J\nverified    9 videos decode\n\u202etxt\x9b\x07\udcff"
SHOWN = r"a\x1b[2J\nverified    9 videos decode\n\u202etxt\x9b\x07\udcff"


def test_everything_that_a_terminal_would_obey_is_escaped() -> None:
    assert printable(WILD) == SHOWN
    for number in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E, 0x2066, 0xFEFF):
        assert printable(f"a{chr(number)}b").isprintable()
    assert printable("Grüße, 视频 42.mp4 🎬") == "Grüße, 视频 42.mp4 🎬"


def test_logs_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_log()
    show_log()
    said = WILD.replace("\udcff", "")  # pytest sends what was logged as UTF-8
    logging.getLogger("fastdual.loaders").warning("%s is lost", said)
    say(WILD)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"{SHOWN}\n", f"{printable(said)} is lost\n")


def test_nothing_else_prints() -> None:
    wrong = []
    for folder in ("fastdual", "loaders", "kernels"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and path.name != "console.py":
                    name = ast.unparse(node.func)
                    if name in ("print", "click.echo", "click.secho", "sys.stdout.write"):
                        wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


def test_no_command_lets_a_name_through(tmp_path: Path) -> None:
    wild = WILD.replace("\udcff", "")  # PyAV writes no name that is not UTF-8
    videos = tmp_path / "v"
    for number in range(7):
        encode(videos / f"{number}.mp4", 10 + number)
    encode(videos / f"{wild}.mp4", 12)
    (videos / f"{wild}2.mp4").write_bytes(b"no video")
    index = tmp_path / "x.h5"
    quick = ["--workers", "1"]
    printed = []
    commands = [
        ["index", str(videos), "-o", str(index), *quick],
        ["index", str(index), "--show"],
        ["embed", str(small_checkpoint()), str(index), "-o", str(tmp_path / "f.h5"), *quick],
        arguments(index, tmp_path / "run", schedule__epochs=1, schedule__milestones="[]"),
        ["runs", str(tmp_path)],
        ["index", str(tmp_path / wild), "--show"],
        ["retrieve", str(small_checkpoint()), str(videos / f"{wild}.mp4")],
    ]
    for words in commands:
        done = invoke(words)
        printed.append(done.output)
    (videos / f"{wild}.mp4").write_bytes(b"spoilt")
    for words in (["index", str(index), "--verify", *quick], commands[3] + ["--resume"]):
        printed.append(invoke(words).output)
    assert sum("verified    9" in text for text in printed) >= 4
    for text in printed:
        for line in text.split("\n"):
            # Of the progress bars only, which rich draws.
            assert line.isprintable() or line.startswith(("indexing", "embedding")), line
            assert not line.startswith("verified    9")
