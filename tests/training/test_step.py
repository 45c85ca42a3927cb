"""A step waits for no value of the device, and compiles to the same numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastdual.config import PretrainConfig, resolve
from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.plan import draw_plan
from fastdual.model.dual import create_model
from fastdual.training.execution import choose_execution
from fastdual.training.loop import Training, take_step
from fastdual.training.optimisers import create_optimiser
from fastdual.training.step import PretrainStep, create_objective
from tests.runs import QUICK


class RefuseToWait(TorchDispatchMode):
    """Fails on every operation that brings a value from the device to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "equal.")), name
        return func(*args, **(kwargs or {}))


def test_a_step_never_reads_a_value_back(make_training: Any) -> None:
    # Without ranking: on a CPU, where it costs nothing, that checks the values of the permutation.
    training = make_training(optimiser__max_gradient_norm=1.0, loss__objective="clip")
    batch = next(iter(training.loader))
    with RefuseToWait():
        output = take_step(training, batch)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            float(output.loss.detach())


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser.name": "sgd"},
        {"optimiser.name": "adamw", "model.framework": "moco", "moco.queue_size": 10},
        {"optimiser.name": "lars", "optimiser.max_gradient_norm": 1.0},
        {"optimiser.accumulate_chunks": 2, "model.channel_multiple": 8},
    ],
    ids=lambda settings: ", ".join(map(str, settings.values())),
)
def test_a_step_needs_no_value_of_anything_it_computes(settings: dict[str, Any]) -> None:
    """On torch's device without memory, where there are shapes but nothing that could be read."""
    values = {**QUICK, **settings}
    config: PretrainConfig = resolve([], [f"{k}={v}" for k, v in values.items()]).config
    with torch.device("meta"):
        model = create_model(config)
        objective = create_objective(config, model)
        ids = torch.arange(4)
        plan = draw_plan(config.clip, seed=0, epoch=0, videos=np.arange(4), num_frames=[9] * 4)
        batch = ClipBatch(torch.empty(4, 4, 3, 8, 32, 32), torch.empty(4, 2).long(), ids, ids, plan)
    training = Training(
        model=model,
        objective=objective,
        optimiser=create_optimiser(
            torch.nn.ModuleList([model, objective]), config.optimiser, fused=False
        ),
        loader=None,  # type: ignore[arg-type]
        compute=PretrainStep(
            model,
            objective,
            choose_execution(config.run),
            num_chunks=config.optimiser.accumulate_chunks,
        ),
        rate=lambda _: 0.1,
        total_steps=9,
        max_gradient_norm=config.optimiser.max_gradient_norm,
    )
    output = take_step(training, batch)
    with pytest.raises(RuntimeError, match="meta"):
        float(output.loss.detach())


@pytest.mark.gpu
@pytest.mark.needs("av", "nvidia.dali")
def test_a_step_on_a_gpu_never_waits_for_it(make_training: Any) -> None:
    training = make_training(run__device="cuda", run__compile="off", model__backbone="r2plus1d")
    batches = iter(training.loader)
    take_step(training, next(batches))
    batch = next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step(training, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_compiled_steps_are_those_of_torch(
    make_training: Any, mode: str, **settings: Any
) -> None:
    def losses(mode: str) -> list[float]:
        more = {"run__compile": mode, "optimiser__learning_rate": 1e-5}
        training = make_training(**settings, **more)
        batches = list(training.loader)[:2]
        return [float(take_step(training, batch).loss.detach()) for batch in batches]

    torch._dynamo.reset()
    # The paper's temperatures magnify the rounding of one step in the loss of the next.
    assert losses(mode) == pytest.approx(losses("off"), rel=1e-3)


def test_compiled_steps_are_those_of_torch(make_training: Any) -> None:
    """On a CPU `cuda-graphs` is the common mode; C++ is compiled once for this test."""
    assert_compiled_steps_are_those_of_torch(make_training, "cuda-graphs")


@pytest.mark.gpu
@pytest.mark.needs("av", "nvidia.dali")
@pytest.mark.parametrize("mode", ["on", "max-autotune", "cuda-graphs"])
@pytest.mark.parametrize("framework", ["simclr", "moco"])
def test_compiled_steps_on_a_gpu_are_those_of_torch(
    make_training: Any, mode: str, framework: str
) -> None:
    """In two chunks, so that graphs run several times a step."""
    gpu = {"run__device": "cuda", "run__precision": "fp32", "model__framework": framework}
    chunks = {"optimiser__accumulate_chunks": 2, "moco__queue_size": 16}
    assert_compiled_steps_are_those_of_torch(make_training, mode, **gpu, **chunks)
