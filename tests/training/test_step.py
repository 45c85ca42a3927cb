"""A step waits for no value of the device, and compiles to the same numbers."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastdual.config import PretrainConfig, resolve
from fastdual.kernels.objective import Objective
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
        compute=PretrainStep(model, objective, config, choose_execution(config.run)),
        rate=lambda _: 0.1,
        total_steps=9,
        max_gradient_norm=config.optimiser.max_gradient_norm,
    )
    output = take_step(training, batch)
    with pytest.raises(RuntimeError, match="meta"):
        float(output.loss.detach())


OBJECTIVES = [objective.value for objective in Objective]
KEYS = {"model.framework": "moco", "moco.queue_size": 10}


def step_of(**settings: Any) -> tuple[PretrainStep, ClipBatch]:
    """A step, and a batch of the views that its config loads: noise, the same for every config."""
    values = QUICK | {key.replace("__", "."): value for key, value in settings.items()}
    config: PretrainConfig = resolve([], [f"{k}={v}" for k, v in values.items()]).config
    torch.manual_seed(0)
    model = create_model(config)
    step = PretrainStep(
        model, create_objective(config, model), config, choose_execution(config.run)
    )
    ids, views = torch.arange(4), config.clip.views
    clips = torch.randn(4, 4, 8, 32, 32, 3).permute(0, 1, 5, 2, 3, 4)[:, views]
    plan = draw_plan(config.clip, seed=0, epoch=0, videos=np.arange(4), num_frames=[9] * 4)
    permutation = torch.tensor([[1, 0]] * 4) if 3 in views else None
    return step, ClipBatch(clips, permutation, ids, ids, plan)


@pytest.mark.parametrize("framework", [{}, KEYS], ids=["simclr", "moco"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_the_views_that_an_objective_compares_are_embedded(
    objective: str, framework: dict[str, Any]
) -> None:
    step, batch = step_of(loss__objective=objective, **framework)
    seen: dict[str, int] = {"query": 0, "key": 0}

    def count(name: str) -> Any:
        def hook(module: Any, arguments: Any) -> None:
            seen[name] += len(arguments[0])

        return hook

    step.model.register_forward_pre_hook(count("query"))
    if framework:
        step.objective.momentum_encoder.register_forward_pre_hook(count("key"))  # type: ignore
    output = step(batch)
    output.backward()
    contrasts, ranks = objective != "rank", "rank" in objective
    if framework:
        queries, keys = 3 if ranks else 1, int(contrasts)
    else:
        queries, keys = 2 * contrasts + (2 if contrasts else 3) * ranks, 0
    assert seen == {"query": 4 * queries, "key": 4 * keys}
    heads = {"clip_head": "clip" in objective, "segment_head": objective != "clip"}
    for name, used in heads.items():  # the rest of the network is reached in any case
        for weight in step.model.get_submodule(name).parameters():
            assert (weight.grad is not None and bool(weight.grad.any())) == used, name


def test_views_that_no_loss_compares_still_count_in_runs_from_before_that() -> None:
    """Their batch norm saw all four views."""
    losses = []
    for noise in (0.0, 1.0):
        step, batch = step_of(loss__objective="clip", model__batch_norm_views="all")
        batch.clips[:, 2:] += noise * torch.randn(batch.clips[:, 2:].shape)
        losses.append(step(batch).loss.item())
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("framework", "groups"),
    [({}, [(0, 1, 2), (3,)]), (KEYS, [(0,), (2, 3)])],
    ids=["simclr", "moco"],
)
def test_views_go_through_batch_norm_in_the_groups_of_the_released_code(
    framework: dict[str, Any], groups: list[tuple[int, ...]]
) -> None:
    step, batch = step_of(model__batch_norm_views="original", **framework)
    seen: list[Any] = []
    step.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    apart = step(batch)
    assert len(seen) == len(groups)
    for images, views in zip(seen, groups, strict=True):
        assert torch.equal(images, batch.clips[:, views].flatten(0, 1))
    together, _ = step_of(model__batch_norm_views="together", **framework)
    assert not torch.equal(together(batch).loss, apart.loss)
    for network in (step.model, together.model):  # with fixed statistics, groups make no difference
        network.load_state_dict(together.model.state_dict())
        network.eval()
    losses = [float(some(batch).metrics["rank"]) for some in (step, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.needs("av", "nvidia.dali")
def test_a_step_on_a_gpu_never_waits_for_it(make_training: Any) -> None:
    training = make_training(run__device="cuda", run__compile="off", model__backbone="r2plus1d")
    first, batch = islice(training.loader, 2)
    training.loader.close()  # its thread may wait for the device, and the mode is of all threads
    take_step(training, first)
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
