"""Launched runs for tests: their settings, their processes, their one line of error."""

from pathlib import Path
from typing import Any

TWO = ("--gpus", "2", "--device", "cpu")


SETTINGS: dict[str, Any] = {
    "schedule__epochs": 20,
    "schedule__milestones": "[]",
    "run__checkpoint_every_steps": 4,
    "run__timeout_seconds": 60,
}


def ranks_of(launcher: int) -> dict[int, int]:
    """Process numbers of the ranks that a launcher started."""
    found = {}
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        words = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        values = dict(word.split(b"=", 1) for word in words if b"=" in word)
        if b"RANK" in values:
            found[int(values[b"RANK"])] = int(child)
    return found


def is_gone(process: int) -> bool:
    """Ended, and not left behind as a zombie."""
    return not Path(f"/proc/{process}").exists()


def one_error(stderr: str) -> str:
    assert "Traceback" not in stderr
    assert "frame #" not in stderr  # the stacks of torch's C++
    errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, stderr
    return errors[0]
