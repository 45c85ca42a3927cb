"""Repeating a step that was not finite, to find where it stops being so."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastdual.backbones.custom import check_named
from fastdual.distributed.world import World
from fastdual.errors import FailureError, InputError, contents_of, first_line
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.plan import ClipPlan
from fastdual.run.checkpoint import list_checkpoints, load_checkpoint, load_weights, step_of
from fastdual.run.folder import RunFolder
from fastdual.training.data_change import settle_data
from fastdual.training.execution import choose_execution
from fastdual.training.loop import Training, take_step
from fastdual.training.pretrain import Pretraining
from fastdual.training.resume import ConfigRequest, resolve_pretrain
from fastdual.training.start import choose_split, create_loader, create_model, create_training

_PLAN_NAME = re.compile(r"plan-step-(\d+)(?:-rank-(\d+))?\.npz")
_SHOWN = 3
_MAX_PLAN_BYTES = 1 << 28


def replay(index: VideoIndex, plan_file: Path) -> list[str]:
    """Train from the checkpoint before a saved plan to its step, and report on that step.

    One process takes the steps, however many did at first. Nothing in the run folder changes.

    Args:
        index: The videos that the run was trained on.
        plan_file: RUN/plan-step-*.npz.

    Returns:
        Lines for people: videos, input, first layer, losses and gradients that are not finite,
        and how many gradients are 0.

    Raises:
        InputError: No such plan, or other videos than those of the run.
        FailureError: The batch of that step is not the one saved.
    """
    step, rank, saved = _read_plan(plan_file)
    folder = RunFolder(plan_file.absolute().parent)
    if not folder.config_file.is_file():
        raise InputError(f"{plan_file}: lies in no run folder; replay it where the run left it")
    index, _ = settle_data(folder, index, accept_changes=False)
    config = resolve_pretrain(folder, ConfigRequest(resume=True)).config
    check_named(config.model.backbone, origin=str(folder.config_file))
    # Layers can be watched only where they are not compiled into one.
    execution = replace(choose_execution(config.run), compile_mode=None)
    task, split = Pretraining(config), choose_split(index, config.data.split)
    model = create_model(task)
    with TemporaryDirectory() as aside, ExitStack() as stack:
        # Videos that fail are noted elsewhere: the run has its own list of them.
        loader = create_loader(index, split, config, execution, World(), RunFolder(Path(aside)))
        stack.callback(loader.close)
        training = create_training(task, model, loader, execution)
        start = _load_before(training, folder, step, index)
        batch = _batch_of(training, step)
        part = batch.plan[rank * len(saved) : (rank + 1) * len(saved)]
        _check_same(part, saved, plan_file)
        videos = ", ".join(index.paths[video] for video in saved.videos[:_SHOWN])
        more = f" and {len(saved) - _SHOWN} more" if len(saved) > _SHOWN else ""
        lines = [f"step       {step}, from {start}", f"videos     {videos}{more}"]
        return lines + _examine(training, batch)


def _read_plan(path: Path) -> tuple[int, int, ClipPlan]:
    """Return step, rank and plan of a file that a run saved."""
    name = _PLAN_NAME.fullmatch(path.name)
    if name is None or not path.is_file():
        raise InputError(f"{path}: no plan of a run; name a file RUN/plan-step-*.npz")
    try:
        _refuse_packed(path)
        with np.load(path, allow_pickle=False) as arrays:
            plan = ClipPlan.from_arrays(dict(arrays))
    except Exception as error:  # a foreign file fails as zip, numpy or our own names do
        reason = first_line(error)
        raise InputError(f"{path}: damaged, or no plan of a run ({reason})") from None
    return int(name[1]), int(name[2] or 0), plan


def _refuse_packed(path: Path) -> None:
    """Refuse a file that unpacks to more than it holds: a run writes its plans uncompressed."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size = path.stat().st_size
    if size > _MAX_PLAN_BYTES or sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"it would unpack to more than its {size:,} bytes, or is too large")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed arrays")


def _load_before(training: Training, folder: RunFolder, step: int, index: VideoIndex) -> str:
    """Load the newest checkpoint of at most `step` steps; return what the run starts from."""
    for path in list_checkpoints(folder.checkpoints):
        if step_of(path) <= step:
            state = load_checkpoint(path)
            with contents_of(path, "remove it, and replay starts from the one before"):
                if state["data"]["fingerprint"] != index.fingerprint:
                    raise InputError(f"{path}: was trained on other data; name the same DATA")
                load_weights(training.model, state["model"], origin=path)
                training.load_state_dict(state)
            return path.name
    return "the start"


def _batch_of(training: Training, step: int) -> ClipBatch:
    """Take the steps before `step` again, and return its batch."""
    while True:
        for batch in training.loader:
            if training.step == step:
                return batch
            take_step(training, batch)
            training.step += 1


def _check_same(ours: ClipPlan, saved: ClipPlan, path: Path) -> None:
    theirs = saved.to_arrays()
    for name, values in ours.to_arrays().items():
        if name not in theirs or not np.array_equal(values, theirs[name]):
            raise FailureError(
                f"{path}: its {name} are not those of the step's batch here: the videos or the "
                "quarantine have changed since"
            )


def _examine(training: Training, batch: ClipBatch) -> list[str]:
    """Run one batch forward and backward, without an update, and watch every layer."""
    lines = [f"clips      {_describe(batch.clips)}"]
    bad = [name for name, w in training.model.named_parameters() if not _is_finite(w)]
    lines.append(f"weights    {_list_bad(bad, 'before the step')}")
    with _watched(training.model) as bad_layers:
        output = training.compute(batch)
        training.optimiser.zero_grad(set_to_none=True)
        output.backward()
    lines.append(f"layers     {_list_bad(bad_layers, 'in their output')}")
    values = {"loss": output.loss.detach(), **output.metrics}
    lines.append("losses     " + ", ".join(f"{k} {float(v):.4g}" for k, v in values.items()))
    gradients = {n: w.grad for n, w in training.model.named_parameters() if w.grad is not None}
    bad = [name for name, gradient in gradients.items() if not _is_finite(gradient)]
    num_zero = sum(not gradient.any() for gradient in gradients.values())
    zero = f"exactly 0 for {num_zero} of {len(gradients)} weights"
    lines.append(f"gradients  {_list_bad(bad, 'in their gradient')}; {zero}")
    return lines


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Collect the names of layers whose output is not finite, in the order of the forward."""
    bad: list[str] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and name not in bad and not _is_finite(output):
                bad.append(name)

        return hook

    layers = [(n, m) for n, m in model.named_modules() if not any(True for _ in m.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in layers]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _describe(tensor: Tensor) -> str:
    if not _is_finite(tensor):
        return f"{int((~torch.isfinite(tensor)).sum())} values are not finite"
    return f"finite, from {float(tensor.min()):.3g} to {float(tensor.max()):.3g}"


def _list_bad(names: list[str], where: str) -> str:
    if not names:
        return "all finite"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"not finite {where}: {', '.join(names[:_SHOWN])}{more}"
