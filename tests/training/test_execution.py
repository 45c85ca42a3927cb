"""Where and how a run computes, on a machine with a GPU and on one without: decided, not run."""

import pytest
import torch

from fastdual.config.sections import RunConfig
from fastdual.distributed.world import World
from fastdual.training.execution import choose_device, choose_execution


@pytest.fixture(params=[0, 1])
def num_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As many CUDA devices as torch then says there are."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    return count


def test_a_gpu_trains_in_bf16_and_compiled_a_cpu_in_fp32_as_it_is(num_gpus: int) -> None:
    chosen = choose_execution(RunConfig())
    assert chosen.device == torch.device("cuda:0" if num_gpus else "cpu")
    assert chosen.bf16 == bool(num_gpus)
    assert chosen.compile_mode == ("default" if num_gpus else None)


def test_a_cpu_is_a_cpu_beside_a_gpu(num_gpus: int) -> None:
    chosen = choose_execution(RunConfig(device="cpu"))
    assert (chosen.device.type, chosen.bf16, chosen.compile_mode) == ("cpu", False, None)
    assert "fp32, not compiled" in chosen.describe()


@pytest.mark.parametrize(
    ("name", "local_rank", "number"), [("auto", 0, 0), ("cuda:2", 0, 2), ("cuda", 3, 3)]
)
def test_the_device_that_is_chosen_becomes_the_current_one(
    monkeypatch: pytest.MonkeyPatch, name: str, local_rank: int, number: int
) -> None:
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    world = World(rank=local_rank, size=4 if local_rank else 1, local_rank=local_rank)
    assert choose_device(name, world) == torch.device("cuda", number)
    assert choose_device("cpu", world) == torch.device("cpu")
    assert current == [number]


@pytest.mark.parametrize(
    ("setting", "mode"),
    [
        ("on", "default"),
        ("max-autotune", "max-autotune-no-cudagraphs"),
        ("cuda-graphs", "reduce-overhead"),
        ("off", None),
    ],
)
def test_modes_of_compilation_are_those_asked_for(setting: str, mode: str | None) -> None:
    assert choose_execution(RunConfig(device="cpu", compile=setting)).compile_mode == mode
