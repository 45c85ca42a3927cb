"""Checkpoints: atomic, checked, and without power over who loads them."""

import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastdual.errors import FailureError, InputError
from fastdual.run import checkpoint
from fastdual.run.checkpoint import (
    Kept,
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    remove_old_checkpoints,
    save_checkpoint,
)
from fastdual.run.folder import RunFolder


def small_state() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "step": 7,
        "model": {"weight": torch.randn(40, 50), "count": torch.tensor(3)},
        "optimiser": {"state": {0: {"momentum_buffer": torch.randn(40, 50)}}},
        "config": {"data.batch_size": 8, "schedule.milestones": (1, 2), "loss.rank_clip": None},
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return set(a) == set(b) and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, small_state())
    loaded = load_checkpoint(path)
    assert equal({key: loaded[key] for key in small_state()}, small_state())
    assert equal(torch.load(path, weights_only=True), loaded)
    assert list(tmp_path.iterdir()) == [path]


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, small_state())
    whole = path.read_bytes()
    for size in [0, 1, 100, len(whole) // 2, len(whole) - 1000, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="damaged, or not a checkpoint"):
            load_checkpoint(path)


def test_a_changed_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """Every record has a checksum; what no checksum covers (padding) holds no data."""
    path = tmp_path / "a.pt"
    save_checkpoint(path, small_state())
    whole, truth = path.read_bytes(), load_checkpoint(path)
    noticed = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 400).tolist():
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        try:
            assert equal(load_checkpoint(path), truth), f"byte {place} changed the state unnoticed"
        except InputError:
            noticed += 1
    assert noticed > 300


def test_foreign_files_are_refused_in_one_line_and_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    path = tmp_path / "a.pt"
    torch.save({"format": checkpoint.FORMAT, "format_version": 1, "bomb": Bomb()}, path)
    with pytest.raises(InputError, match="not a checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()

    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="not a checkpoint that fastdual wrote"):
        load_checkpoint(path)
    torch.save({"format": checkpoint.FORMAT, "format_version": 99}, path)
    with pytest.raises(InputError, match="checkpoint format 99"):
        load_checkpoint(path)
    path.write_text("hello")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(InputError, match="compressed records"):
        load_checkpoint(path)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


def save_under_a_file_size_limit(
    folder: Path, limit_bytes: int
) -> subprocess.CompletedProcess[str]:
    """Save a second checkpoint in a process whose files may not grow beyond a limit."""
    code = (
        "import torch, sys; from pathlib import Path\n"
        "from fastdual.run.checkpoint import save_checkpoint\n"
        "from fastdual.errors import FailureError\n"
        "try: save_checkpoint(Path(sys.argv[1]), {'weight': torch.ones(1 << 20)})\n"
        "except FailureError as error: sys.exit(str(error))\n"
    )

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    command = [sys.executable, "-c", code, str(folder / "step-00000002.pt")]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(tmp_path: Path) -> None:
    first = checkpoint_path(tmp_path, 1)
    save_checkpoint(first, small_state())
    before = first.read_bytes()
    result = save_under_a_file_size_limit(tmp_path, limit_bytes=1 << 20)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    kept = "earlier ones are untouched, and --resume continues from them"
    name = tmp_path / "step-00000002.pt"
    message = f"{name}: the checkpoint could not be written: File too large; {kept}"
    assert result.stderr.splitlines()[-1] == message
    assert list(tmp_path.iterdir()) == [first]
    assert first.read_bytes() == before


def test_a_checkpoint_that_cannot_be_written_says_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "step-00000002.pt"
    cause = r"the checkpoint could not be written: (Not a directory|File exists); earlier ones"
    with pytest.raises(FailureError, match=cause):
        save_checkpoint(path, {"step": 2})
    (tmp_path / "step-00000003.pt").mkdir()
    with pytest.raises(FailureError, match="could not be written: Is a directory; earlier ones"):
        save_checkpoint(tmp_path / "step-00000003.pt", {"step": 3})


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """Whatever the moment, the target is the old file or the new one, never a mixture."""
    folder = RunFolder(tmp_path / "run")
    path = checkpoint_path(folder.checkpoints, 1)
    save_checkpoint(path, {"step": 0, "weight": torch.zeros(1 << 18)})
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from fastdual.run.checkpoint import save_checkpoint\n"
        "print('ready', flush=True)\n"
        "for step in range(1, 10**6):\n"
        "    state = {'step': step, 'weight': torch.full((1 << 18,), step)}\n"
        "    save_checkpoint(Path(sys.argv[1]), state)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(20):
        state = load_checkpoint(path)
        assert bool((state["weight"] == state["step"]).all())
    process.kill()
    process.wait()
    state = load_checkpoint(path)
    assert bool((state["weight"] == state["step"]).all())
    # What a kill left over is removed when the next process of the run claims the folder.
    (folder.path / ".config.toml.0a1b2c3d.partial").touch()
    with folder.claimed(""):
        assert list(folder.checkpoints.iterdir()) == [path]
        assert not list(folder.path.glob(".*.partial"))


def test_newest_checkpoints_are_kept_and_found(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (5, 10, 100, 20):
        checkpoint_path(folder, step).touch()
    (folder / "step-old.pt").touch()
    assert find_checkpoint(tmp_path) == checkpoint_path(folder, 100)
    remove_old_checkpoints(folder, keep=Kept(2), newest=checkpoint_path(folder, 100))
    assert list_checkpoints(folder) == [checkpoint_path(folder, 100), checkpoint_path(folder, 20)]
    assert (folder / "step-old.pt").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no checkpoint"):
        find_checkpoint(empty)
    with pytest.raises(InputError, match="no such run folder"):
        find_checkpoint(tmp_path / "absent")


def test_checkpoints_of_whole_intervals_stay_however_old(tmp_path: Path) -> None:
    for step in (2, 4, 5, 6, 7, 8):
        checkpoint_path(tmp_path, step).touch()
    newest = checkpoint_path(tmp_path, 8)
    remove_old_checkpoints(tmp_path, keep=Kept(1, every_steps=3), newest=newest)
    assert list_checkpoints(tmp_path) == [newest, checkpoint_path(tmp_path, 6)]


def test_weights_of_another_model_name_the_first_differences() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 1)).state_dict()
    with pytest.raises(InputError) as caught:
        load_weights(model, other, origin="x.pt")
    message = str(caught.value)
    assert message.startswith(
        "x.pt: weights of another model: 2.weight is unknown, 2.bias is unknown"
    )
    assert "1.weight is [6, 4] there and [5, 4] here" in message
    assert "(4 entries differ)" in message
    assert equal(dict(model.state_dict()), before)


@pytest.mark.parametrize("kind", ["index", "features"])
def test_another_file_of_ours_is_called_what_it_is(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.h5").write_bytes(f"fastdual-{kind} 3\n".encode().ljust(512, b"\0"))
    with pytest.raises(InputError, match=f"x.h5: a file of fastdual's, but of kind {kind}; name a"):
        load_checkpoint(tmp_path / "x.h5")
