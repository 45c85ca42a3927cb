"""bench.checkpoints on a CPU: what it times is a real checkpoint, and what it says adds up."""

from pathlib import Path

import pytest
import torch

from bench.checkpoints import Costs, measure, one_line
from bench.parts.train.case import Case, Size
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint

CASE = Case("tiny", Size(batch=2, frames=8, crop=32), torch.device("cpu"))


def test_what_is_timed_is_written_whole_while_steps_go_on(tmp_path: Path) -> None:
    costs = Costs(CASE, tmp_path / "run")
    before = {name: value.clone() for name, value in costs.state()["model"].items()}
    held, taken, _ = costs.save_beside()
    assert 0 < held < taken
    saved = load_checkpoint(find_checkpoint(tmp_path / "run"))
    assert all(torch.equal(saved["model"][name], value) for name, value in before.items())
    assert saved["optimiser"]["state"]


def test_shares_are_of_the_step_and_of_the_interval(tmp_path: Path) -> None:
    row = measure(CASE, rounds=1, folder=tmp_path / "run")
    # Weights and momentum of 967,887 numbers.
    assert row["checkpoint_mib"] == pytest.approx(2 * 4 * 967_887 / 2**20, rel=0.02)
    for name in ("held", "lost", "within"):
        share = row[f"{name}_ms"] / row["step_ms"]
        assert row[f"{name}_share_of_step"] == pytest.approx(share, abs=1e-3)
        assert row[f"{name}_share_of_interval"] == pytest.approx(share / 500, abs=1e-5)
    assert row["held_ms"] < row["within_ms"]
    assert f"{row['held_share_of_step']:.1%}" in one_line(row)
