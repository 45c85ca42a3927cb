"""How much memory a step will take, found before the first one: a run that cannot fit never starts.

The network runs once on torch's device `meta`, which knows shapes and holds no values; what its
forward keeps for the backward is counted there. Letters: N clips of one forward.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fastdual.distributed.world import World
from fastdual.errors import InputError
from fastdual.loaders.plan import ClipSpec
from fastdual.model.recompute import recompute_activations
from fastdual.training.execution import Execution
from fastdual.training.loop import Training
from fastdual.training.task import Task

# The peak is in the backward, which holds gradients of activations as well: of R(2+1)D's step on a
# CPU it was 1.4 times what the forward keeps (4 clips of 16x112x112, 2026-12-01). torch.compile
# computes some of that again instead; how much is not measured, so the lower bound is taken.
_EAGER_SHARE, _COMPILED_SHARE = 1.4, 0.5
# Networks keep 9 (tiny) to 130 (R(2+1)D) times the size of their clips. Where this many times fit,
# nothing is counted: torch takes seconds to load what it needs for that.
_CERTAINLY_ENOUGH = 1000
# Floats per weight beside itself: its gradient, and the optimiser's state.
_STATES = {"sgd": 2, "lars": 2, "adamw": 3}
_GIB = 2**30


@dataclass(frozen=True)
class StepMemory:
    """The memory of a process while it trains, in bytes.

    Attributes:
        states: Weights, gradients and the optimiser's state.
        per_video: What a video's clips take: themselves, and what their forward keeps.
        loading: Of one video: its clips in the batches made ahead, and its decoded frames.
    """

    states: int
    per_video: int
    loading: int

    def total(self, num_videos: int) -> int:
        """Return all of it, for so many videos of a process."""
        return self.states + (self.per_video + self.loading) * num_videos


def forward_bytes(
    model: nn.Module, clip_shape: tuple[int, int, int], *, recompute: bool = False
) -> int:
    """Return what a forward of two clips in float32 keeps for its backward, per clip.

    Args:
        model: Maps clips [N, 3, T, H, W]; it is copied.
        clip_shape: T, H, W.
        recompute: The backbone keeps the inputs of its stages alone.
    """
    twin = copy.deepcopy(model).to("meta").train()
    if recompute:
        recompute_activations(twin.get_submodule("backbone"))
    clips = torch.empty(2, 3, *clip_shape, device="meta")
    kept: dict[int, int] = {}
    weights = {weight.untyped_storage()._cdata for weight in twin.parameters()}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        twin(clips)
    return sum(kept.values()) // 2


def available_bytes(device: torch.device, *, sharers: int = 1) -> int:
    """Return the memory that a process may take: of its GPU, or its share of the machine's.

    Args:
        device: Where it computes.
        sharers: Processes on this machine; those on a GPU have it for themselves.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return host_bytes() // sharers


def host_bytes() -> int:
    """Return the memory that is left on this machine, or to its container if that is less."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    left = 1024 * int(lines["MemAvailable"].split()[0])
    return max(0, min([left, *_left_to_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]))


def _left_to_groups(own: Path, root: Path) -> Iterator[int]:
    """Yield what is left to the control groups of a process, of version 1 or 2, and above them."""
    for line in own.read_text().splitlines() if own.exists() else ():
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        base = root / "memory" if kinds else root
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if kinds
            else ("memory.max", "memory.current")
        )
        group = base / place.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # not there, or without a limit: "max"
                limit, used = (int((folder / name).read_text()) for name in names)
                yield limit - used + _reclaimable(folder / "memory.stat")
            if folder == base:
                break


def _reclaimable(statistics: Path) -> int:
    """Return what a group holds of files, which the kernel gives up first."""
    words = (line.split() for line in statistics.read_text().splitlines())
    return sum(int(word[1]) for word in words if word[0] in ("inactive_file", "active_file"))


def checkpoint_bytes(training: Training, optimiser: str) -> int:
    """Return what a checkpoint of a training takes on disk, once its optimiser has a state."""
    kept = [training.model.state_dict(), training.objective.state_dict()]
    trained = sum(w.nbytes for w in training.model.parameters() if w.requires_grad)
    states = (_STATES[optimiser] - 1) * trained
    return states + sum(t.nbytes for of in kept for t in of.values() if isinstance(t, Tensor))


def require_memory(
    model: nn.Module, task: Task, execution: Execution, world: World
) -> StepMemory | None:
    """Make sure that a step fits into the memory that is left, before it is taken.

    Args:
        model: Of the task, not yet on its device.
        task: Says how many clips a video has in the network, and all settings.
        execution: Where and how it is computed.
        world: Who shares this machine.

    Returns:
        The estimate; None where there is certainly enough, and for a user's own network that
        cannot be run without values.

    Raises:
        InputError: It does not fit; says what does.
    """
    config = task.config
    num_videos = -(-config.data.batch_size // world.size)
    left = available_bytes(execution.device, sharers=world.local_size)
    clips = 12 * math.prod(config.clip.clip_shape) * config.clip.num_views * num_videos
    if _CERTAINLY_ENOUGH * clips < left:
        return None
    try:
        need = estimate(model, task, execution)
    except Exception:  # a network of the user's own may do anything with its values
        return None
    if need.total(num_videos) <= left:
        return need
    fitting = (left - need.states) // max(1, need.per_video + need.loading) * world.size
    remedy = f"--batch-size {fitting} fits" if fitting >= 2 else _smaller(need, left, config.clip)
    raise InputError(
        f"a step of {num_videos} videos needs about {need.total(num_videos) / _GIB:.1f} GiB on "
        f"{execution.device} ({need.states / _GIB:.2f} for weights and optimiser, "
        f"{(need.per_video + need.loading) / _GIB:.2f} per video), and {left / _GIB:.1f} GiB are "
        f"left; {remedy}; {task.memory_remedy}",
        keys=("data.batch_size", "clip.frames_per_clip"),
    )


def _smaller(need: StepMemory, left: int, clip: ClipSpec) -> str:
    share = max(0.0, (left - need.states) / (2 * (need.per_video + need.loading)))
    frames = int(share * clip.frames_per_clip)
    if frames < 1:
        return "not even its weights fit; take a smaller backbone and heads"
    return f"2 videos fit with about {frames} frames per clip (clip.frames_per_clip)"


def estimate(model: nn.Module, task: Task, execution: Execution) -> StepMemory:
    """Return what a step takes, from one forward without values."""
    config, clip = task.config, task.config.clip
    size = 2 if execution.bf16 else 4
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    weights = 4 * sum(w.numel() for w in model.parameters())
    recompute = config.run.recompute_activations == "on" and task.trains_backbone
    kept = forward_bytes(model, clip.clip_shape, recompute=recompute) * size // 4
    kept = int(kept * (_EAGER_SHARE if execution.compile_mode is None else _COMPILED_SHARE))
    pixels = 3 * math.prod(clip.clip_shape)
    clips = clip.num_views
    chunks = config.optimiser.accumulate_chunks
    ahead = clips * pixels * size * config.data.prefetch
    frames = (
        3 * clip.resize_height * clip.resize_width * clip.frames_per_clip * len(set(clip.view_clip))
    )
    on_host = execution.device.type == "cpu"
    return StepMemory(
        states=weights + 4 * trained * _STATES[config.optimiser.name],
        per_video=clips * pixels * size + clips * kept // chunks,
        loading=ahead + (frames if on_host else 0),
    )
