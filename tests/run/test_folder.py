"""A run's folder: what it saves beside the step, which checkpoint it takes, what a kill left."""

from pathlib import Path

import pytest
import torch

from fastdual.run.checkpoint import (
    Kept,
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from fastdual.run.folder import RunFolder


def test_a_run_folder_saves_the_state_as_it_was_when_asked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    written: list[Path] = []
    weight = torch.zeros(1 << 20)
    for step in (1, 2, 3):
        folder.save({"step": step, "weight": weight}, keep=Kept(2), written=written.append)
        weight += 1  # as the next step would, while the thread writes
    folder.writer.wait()
    assert written == [checkpoint_path(folder.checkpoints, step) for step in (1, 2, 3)]
    assert list_checkpoints(folder.checkpoints) == written[:0:-1]
    for path, value in zip(written[1:], (1, 2), strict=True):
        assert bool((load_checkpoint(path)["weight"] == value).all())


def test_a_damaged_checkpoint_of_a_later_step_costs_no_whole_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    for step in (4, 9):
        folder.save({"step": step}, keep=Kept(2), written=lambda _: None)
    folder.writer.wait()
    checkpoint_path(folder.checkpoints, 9).write_bytes(b"cut")
    with pytest.warns(UserWarning, match="earlier ones of its folder may be whole; falling back"):
        found = folder.load_newest()
    assert found is not None
    assert found[1]["step"] == 4
    folder.save({"step": 5}, keep=Kept(1), written=lambda _: None)
    folder.writer.wait()
    newest = checkpoint_path(folder.checkpoints, 5)
    assert list_checkpoints(folder.checkpoints) == [newest]
    assert find_checkpoint(tmp_path) == newest


@pytest.mark.gpu
def test_a_copy_on_a_gpu_is_written_from_a_stream_of_its_own(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    weight = torch.zeros(1 << 24, device="cuda")
    for step in range(1, 9):
        for _ in range(50):
            weight += 1
        folder.save({"step": step, "weight": weight}, keep=Kept(9), written=lambda _: None)
    folder.writer.wait()
    for path in list_checkpoints(folder.checkpoints):
        state = load_checkpoint(path)
        assert bool((state["weight"] == 50 * state["step"]).all())
