"""Which recipe a run gets that names none."""

from types import SimpleNamespace

import pytest
import torch

from fastdual.config import resolve
from fastdual.config.recipe import read_recipe
from fastdual.training.choice import choose_recipe


def test_a_cpu_gets_the_small_network_and_says_why() -> None:
    choice = choose_recipe(240_000, torch.device("cpu"))
    assert choice.recipe == "tiny" and "CPU" in choice.reason and choice.batch_size is None


@pytest.mark.parametrize(
    ("gib", "videos", "recipe", "reason"),
    [
        (80, 640, "paper-simclr", "a GPU of 80 GiB and 640 videos"),
        (80, 639, "tiny", "639 videos are few"),
        (24, 100_000, "tiny", "the GPU has 24 GiB, the paper's network needs 48"),
    ],
)
def test_a_gpu_gets_what_fits_it(
    gib: int, videos: int, recipe: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    choice = choose_recipe(videos, torch.device("cuda", 0))
    assert choice.recipe == recipe and reason in choice.reason
    assert resolve([read_recipe(choice.recipe)]).config


@pytest.mark.parametrize(("videos", "size"), [(1, None), (2, 2), (15, 15), (16, None)])
def test_a_batch_is_no_larger_than_the_videos(videos: int, size: int | None) -> None:
    assert choose_recipe(videos, torch.device("cpu")).batch_size == size
