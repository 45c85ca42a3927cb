"""Where a command writes is looked at before the work; the system may lack locks and syncing."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from fastdual.cli import COMMANDS, cli
from fastdual.commands.shared.options import InputPath, OutputFile
from fastdual.loaders import files
from tests.evaluate.small import small_checkpoint
from tests.runs import arguments, invoke, write_index


def line_of(words: list[object]) -> str:
    """Run a command that is refused: one line, exit code 2, and nothing was worked on."""
    refused = invoke([str(word) for word in words])
    assert refused.exit_code == 2, refused.output
    (line,) = refused.stderr.splitlines()
    assert refused.stdout == "" and line.startswith("Error: ")
    return line


def test_every_place_is_checked_as_it_is_read() -> None:
    found = set()
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for parameter in command.params:
            assert not isinstance(parameter.type, click.Path) or isinstance(
                parameter.type, InputPath
            ), (name, parameter.name)
            if parameter.name in ("output", "overlaps_file"):
                assert isinstance(parameter.type, OutputFile), (name, parameter.name)
                found.add(name)
    writing = {"embed", "export", "finetune", "index", "knn", "pack", "plot", "pretext", "probe"}
    assert found == writing | {"report", "retrieve", "table"}


@pytest.mark.parametrize("place", ["pipe.h5", "/dev/zero"])
@pytest.mark.parametrize("words", [["table"], ["knn"], ["pretrain", "--run", "r", "--init", "x"]])
def test_what_might_never_end_is_not_read(words: list[str], place: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    assert f"{tmp_path / place} is a pipe or a device: name a file" in line_of(
        [*words, tmp_path / place]
    )


MADE: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe or a device": os.mkfifo,
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize(
    "words",
    [
        ["embed", "no-run", "no-data", "-o"],
        ["export", "no-run", "-o"],
        ["index", "no-data", "-o"],
        ["knn", "no-features.h5", "-o"],
        ["pack", "no-data", "-o"],
        ["report", "no-run", "-o"],
        ["finetune", "no-run", "no-data", "--run", "r", "--overlaps"],
        ["table", "no-run", "-o"],
    ],
    ids=" ".join,
)
def test_a_place_where_no_file_can_be(words: list[object], kind: str, tmp_path: Path) -> None:
    place = tmp_path / "x.h5"
    MADE[kind](place)
    before = place.stat().st_mode
    assert f"{place} is a {kind}: name a file for the " in line_of([*words, place])
    assert stat.S_IFMT(place.stat().st_mode) == stat.S_IFMT(before)
    (tmp_path / "file").touch()
    under = tmp_path / "file" / "more" / "x.h5"
    assert f"{under}: {tmp_path / 'file'} is no folder; name another" in line_of([*words, under])


def test_a_device_is_not_replaced_by_a_file() -> None:
    line_of(["embed", "no-run", "no-data", "-o", "/dev/null"])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_name_that_the_file_system_does_not_take(tmp_path: Path) -> None:
    refused = invoke(["embed", "no-run", "no-data", "-o", str(tmp_path / f"{'x' * 300}.h5")])
    assert refused.exit_code == 1
    assert refused.stderr.endswith(
        "the features could not be written: File name too long; name another place\n"
    )


@pytest.mark.parametrize("words", [["pretrain"], ["finetune", "no-source"]])
def test_the_folder_of_a_run_under_a_file(words: list[object], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = line_of([*words, "no-data", "--run", tmp_path / "file" / "run"])
    assert f"{tmp_path / 'file'} is no folder; name another place for the run" in line


@pytest.mark.parametrize(
    ("words", "in_the_way", "what"),
    [
        (["retrieve", "DATA"], "results", "the result"),
        (["pretext", "DATA"], "results", "the result"),
        (["plot"], "plots", "the plots"),
        (["export"], "backbone.safetensors/x", "the export"),
        (["report", "DATA"], "report.html/x", "the report"),
    ],
)
def test_places_that_no_option_names_are_looked_at_too(
    words: list[str], in_the_way: str, what: str, tmp_path: Path
) -> None:
    run, name, *data = tmp_path / "run", *words
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step-00000007.pt").symlink_to(small_checkpoint())
    (run / in_the_way).parent.mkdir(exist_ok=True)
    (run / in_the_way).touch()
    line = line_of([name, run, *(["no-data"] if data else [])])
    assert str(run / in_the_way.partition("/")[0]) in line and what in line


def test_checkpoints_that_do_not_fit_on_the_disk(tmp_path: Path) -> None:
    data, run = write_index(tmp_path, count=4), tmp_path / "run"
    refused = invoke(arguments(data, run, run__keep_checkpoints=10**9))
    assert refused.exit_code == 1
    assert f"{run}: the run takes about " in refused.stderr.splitlines()[-1]
    assert "MB are free there; free some space, or name another place" in refused.stderr
    assert not run.exists()


def test_nothing_is_left_behind_and_a_file_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "old.h5").touch()
    for path in (tmp_path / "old.h5", tmp_path / "a" / "b" / "new.h5"):
        files.check_place(path, "the features")
    files.check_folder(tmp_path / "c", "the plots")
    assert [path.name for path in tmp_path.iterdir()] == ["old.h5"]


def test_without_locks_and_syncing_of_folders_everything_is_written_with_one_warning_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on Lustre, some NFS, CIFS and the shared folders of virtual machines."""
    sync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("os.fsync", only_files)
    monkeypatch.setattr("fcntl.flock", no_locks)
    data, run = write_index(tmp_path, count=4), tmp_path / "run"
    packed = tmp_path / "packed" / "p.h5"
    made = invoke(["pack", str(data), "-o", str(packed), "--workers", "1"])
    assert made.exit_code == 0, made.output
    trained = invoke(arguments(packed, run, schedule__epochs=2))
    assert trained.exit_code == 0, trained.output
    for folder in (packed.parent, run):
        assert caplog.text.count(f"{folder}: its file system has no locks (Function not impl") == 1
    for folder in (packed.parent, run / "checkpoints"):
        assert caplog.text.count(f"{folder}: its file system does not sync folders (Invalid") == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir())[-1] == "step-00000002.pt"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_lock_that_the_system_refuses_is_no_lock_of_another(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with open(tmp_path / "a", "w") as file, open(tmp_path / "a", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not files.lock(file, wait=False)
        monkeypatch.setattr("fcntl.flock", refuse)
        assert files.lock(file, wait=False)
