"""A key that does not exist leads to the one that was meant."""

import pytest

from fastdual.config import resolve
from fastdual.errors import InputError


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optimiser.lr", "optimiser.learning_rate"),
        ("optimizer.LR", "optimiser.learning_rate"),
        ("data.workers", "data.num_workers"),
        ("clip.frames", "clip.frames_per_clip"),
    ],
)
def test_a_name_of_other_programs_leads_to_ours(key: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"did you mean {meant}"):
        resolve([], [f"{key}=1"])
