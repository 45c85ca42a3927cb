"""What a pretraining run is going to do, in a few lines for people."""

from pathlib import Path

from fastdual.config.recipe import Resolved
from fastdual.config.sections import PretrainConfig
from fastdual.distributed.team import World
from fastdual.loaders.index import VideoIndex
from fastdual.training.execution import Execution
from fastdual.training.loop import Training


def describe_run(
    index: VideoIndex,
    training: Training,
    resolved: Resolved[PretrainConfig],
    execution: Execution,
    split: str | None,
    restored: Path | None,
    world: World,
) -> list[str]:
    """What is going to be done, for people: data, model, device, settings."""
    config, loader = resolved.config, training.loader
    clip = config.clip
    videos = f"all {len(index)} videos" if split is None else f"{len(index.split(split))} videos"
    chosen = "" if split is None else f" of the split {split!r} ({len(index)} in the index)"
    num_weights = sum(weight.numel() for weight in training.model.parameters())
    where = f"goes on from {restored} at step {training.step}" if restored else "starts at step 0"
    return [
        f"data      {videos}{chosen}; {len(loader)} batches of {config.data.batch_size} per epoch",
        f"decode    {loader.decode_choice.decoder}: {loader.decode_choice.reason}",
        f"clips     {clip.frames_per_clip} frames at stride {clip.frame_stride}, "
        f"{clip.crop_size}x{clip.crop_size}, {clip.num_segments} segments",
        f"model     {config.model.backbone}, {num_weights:,} weights; {config.model.framework}, "
        f"objective {config.loss.objective}",
        f"compute   {execution.describe()}"
        + (", activations computed twice" if config.run.recompute_activations == "on" else ""),
        *describe_processes(world, execution, config),
        f"settings  {describe_origins(resolved)}",
        f"run       {where} of {training.total_steps} ({config.schedule.epochs} epochs)",
    ]


def describe_processes(world: World, execution: Execution, config: PretrainConfig) -> list[str]:
    """How many processes, how they talk and what each takes; nothing to say of a single one."""
    if world.size == 1:
        return []
    library = "NCCL" if execution.is_cuda else "gloo"
    return [
        f"processes {world.size} ({world.local_size} on this machine) over {library}, "
        f"{config.data.batch_size // world.size} videos each; batch norm over all of them; who "
        f"does not answer for {config.run.timeout_seconds} s is given up"
    ]


def describe_origins(resolved: Resolved[PretrainConfig]) -> str:
    """The recipe, and every value that the command line gave, by what gave it."""
    recipes, given = [], []
    for key, origin in resolved.sources.items():
        value = resolved.config.to_dict()[key]
        if origin == "--set":
            given.append(f"{key}={value}")
        elif origin.startswith("--"):
            given.append(f"{origin} {value}")
        elif origin != "default" and origin not in recipes:
            recipes.append(origin)
    return ", ".join(recipes) + "".join(f"; {text}" for text in given)
