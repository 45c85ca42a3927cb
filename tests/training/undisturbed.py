"""A run that was never disturbed, for tests that compare others with it bit for bit."""

from pathlib import Path
from typing import Any

from fastdual.run.checkpoint import find_checkpoint, load_checkpoint
from tests.runs import (
    arguments,
    differences,
    invoke,
    read_log,
)

NUM_VIDEOS, BATCH = 24, 2


STEPS = 2 * NUM_VIDEOS // BATCH


SETTINGS: dict[str, Any] = {
    "data__batch_size": BATCH,
    "schedule__epochs": 2,
    "schedule__milestones": "[1]",
    "schedule__warmup_epochs": 0.5,
    "run__checkpoint_every_steps": 4,
    "run__keep_checkpoints": 2,
}


COMPARED = ("step", "model", "objective", "optimiser", "order", "rng", "config", "data", "versions")


def write_undisturbed(index: Path, run: Path) -> Path:
    """Make the run, and return its folder."""
    result = invoke(arguments(index, run, **SETTINGS))
    assert result.exit_code == 0, result.output
    # After 20 steps, and once.
    assert result.stderr.count(" per epoch, ") == 1
    assert "by steps 5 to 20" in result.stderr
    return run


def assert_same_end(run: Path, undisturbed: Path) -> None:
    ours, theirs = (load_checkpoint(find_checkpoint(path)) for path in (run, undisturbed))
    assert theirs["step"] == STEPS
    pairs = [{key: state[key] for key in COMPARED} for state in (ours, theirs)]
    assert differences(*pairs) == []
    losses = [[(e["step"], e["loss"]) for e in read_log(r, "train")] for r in (run, undisturbed)]
    assert losses[0] == losses[1]
