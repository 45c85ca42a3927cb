"""What a run is going to do, in a few lines for people."""

from collections.abc import Mapping
from typing import Any

from fastdual.config import FinetuneConfig
from fastdual.config.sections import PretrainConfig, TrainingConfig
from fastdual.distributed.world import World
from fastdual.loaders.index import describe_left_out
from fastdual.training.execution import Execution
from fastdual.training.task import Start


def describe_pretraining(config: PretrainConfig, start: Start) -> list[str]:
    """Return lines on data, decoder, clips, model, device, processes, settings and place."""
    index, split, training = start.index, start.split, start.training
    videos = f"all {len(index)} videos" if split is None else f"{len(index.split(split))} videos"
    chosen = "" if split is None else f" of the split {split!r} ({len(index)} in the index)"
    num_weights = sum(weight.numel() for weight in training.model.parameters())
    recomputed = config.run.recompute_activations == "on"
    from_file = f"continues from {start.restored}" if start.restored else "starts"
    return [
        f"data      {videos}{chosen}; {_batches(config, start)}",
        *_left_out(start),
        _decoder(start),
        f"{_clips(config, start)}, {config.clip.num_segments} segments",
        f"model     {config.model.backbone}, {num_weights:,} weights; {config.model.framework}, "
        f"objective {config.loss.objective}",
        f"compute   {start.execution.describe()}"
        + (", activations computed twice" if recomputed else ""),
        *describe_processes(start.world, start.execution, config),
        f"settings  {describe_origins(config.to_dict(), start.sources)}",
        f"run       {from_file} at {_place(config, start)}",
    ]


def describe_finetuning(config: FinetuneConfig, start: Start) -> list[str]:
    """Return lines on data, decoder, clips, model, device and place."""
    trained = "classifier alone, backbone frozen" if config.model.freeze else "all weights"
    return [
        f"data      {len(start.index.class_names)} classes; {_batches(config, start)}; tested on "
        f"{config.test.split!r} by {config.clip.clips_per_video} clips per video",
        *_left_out(start),
        _decoder(start),
        _clips(config, start),
        f"model     {config.model.backbone} from {config.model.weights[:24]}; trained: {trained}",
        f"compute   {start.execution.describe()}",
        f"run       {'continues' if start.restored else 'starts'} at {_place(config, start)}",
    ]


def _left_out(start: Start) -> list[str]:
    text = describe_left_out(start.index)
    return [] if text is None else [f"left out  {text}; all are in left-out.csv of the run"]


def _batches(config: TrainingConfig, start: Start) -> str:
    count, size = len(start.training.loader), config.data.batch_size
    left_over = len(start.index.split(start.split)) - count * size
    batches = "1 batch" if count == 1 else f"{count} batches"
    rest = f" ({left_over} videos are left over, others in each)" if left_over else ""
    return f"{batches} of {size} per epoch{rest}"


def _decoder(start: Start) -> str:
    choice = start.training.loader.decode_choice
    return f"decode    {choice.decoder}: {choice.reason}"


def _clips(config: TrainingConfig, start: Start) -> str:
    clip, packed_for = config.clip, start.index.frame_stride
    other = f" (packed for {packed_for}: costs more decoding)"
    return (
        f"clips     {clip.frames_per_clip} frames at stride {clip.frame_stride}"
        f"{other if packed_for not in (1, clip.frame_stride) else ''}, "
        f"{clip.crop_size}x{clip.crop_size}"
    )


def _place(config: TrainingConfig, start: Start) -> str:
    training = start.training
    if training.step == training.total_steps:
        return f"step {training.step}: it is complete already, nothing is left to train"
    return f"step {training.step} of {training.total_steps} ({config.schedule.epochs} epochs)"


def describe_processes(world: World, execution: Execution, config: TrainingConfig) -> list[str]:
    """Return how many processes there are, how they talk and what each takes; [] for one."""
    if world.size == 1:
        return []
    library = "NCCL" if execution.is_cuda else "gloo"
    return [
        f"processes {world.size} ({world.local_size} on this machine) over {library}, "
        f"{config.data.batch_size // world.size} videos each; batch norm over all of them; a "
        f"process that does not answer for {config.run.timeout_seconds} s ends the run"
    ]


def describe_origins(values: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Return the recipe, and every value that the command line gave, with what gave it."""
    recipes, given = [], []
    for key, origin in sources.items():
        if origin == "--set":
            given.append(f"{key}={values[key]}")
        elif origin.startswith("--"):
            given.append(f"{origin} {values[key]}")
        elif origin != "default" and origin not in recipes:
            recipes.append(origin)
    return ", ".join(recipes) + "".join(f"; {text}" for text in given)
