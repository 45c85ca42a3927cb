"""The config of pretraining: frozen dataclasses that check themselves, one per section.

`fastdual.config.recipe` fills them from TOML files and `--set key=value`. The defaults are the
paper's. A value that is None in Python is left out of a TOML file, and is written `none` on the
command line.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from fastdual.config.recipe import Resolved, build, flatten
from fastdual.config.stored import supported
from fastdual.errors import InputError, shown
from fastdual.kernels.objective import Objective, Part
from fastdual.loaders.plan import ALL_VIEWS, ClipSpec

# Keys of `clip` that pretraining fixes: the objective decides the views, and the others belong to
# fine-tuning and to evaluation.
FIXED_KEYS = frozenset(
    {
        "clip.mode",
        "clip.views",
        "clip.clips_per_video",
        "clip.flip_probability",
        "clip.short_start",
    }
)


def check(holds: bool, key: str, value: object, rule: str, *others: str) -> None:
    """Raise an InputError on a key, its value and the rule that it breaks, unless it holds.

    Args:
        holds: Whether the value keeps the rule.
        key: The setting, section.name.
        value: Its value.
        rule: "must be positive".
        others: Keys of other settings that the rule is about.
    """
    if not holds:
        raise InputError(f"{key} = {shown(value)}: {rule}", keys=(key, *others))


def check_at_least_1(section: object, prefix: str, *names: str, most: int = 2**31 - 1) -> None:
    """Raise an InputError unless some values of a section lie in 1..most, or are None."""
    for name in names:
        value = getattr(section, name)
        rule = "must be at least 1" + (f", and at most {most:,}" if value and value > most else "")
        check(value is None or 1 <= value <= most, f"{prefix}.{name}", value, rule)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which videos, how many at a time, and how they are decoded."""

    split: str = "auto"
    """Split of the index, or the name before its `/train`; `all`: every video; `auto`: `train` if
    there is one, otherwise all."""
    batch_size: int = 64
    """Videos in a batch, over all processes together."""
    decode: Literal["auto", "nvdec", "dali-cpu", "pyav"] = "auto"
    """Decoder: `auto` takes the fastest one that works here, and PyAV for what that cannot decode;
    one that is named decodes everything, or the run ends."""
    augment: Literal["auto", "dali", "triton"] = "auto"
    """Who augments on a GPU: `dali`, or `triton`: one kernel for all views. `auto` is `dali`."""
    num_workers: int | None = None
    """Decoding processes; none: as many as suit this machine."""
    prefetch: int = 2
    """Batches made ahead of the step that uses them."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 2, "data.batch_size", self.batch_size, "a contrast needs 2 videos")
        check_at_least_1(self, "data", "num_workers", "prefetch", most=4096)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, the sizes of its two heads, and the framework that trains them."""

    framework: Literal["simclr", "moco"] = "simclr"
    """Negatives: `simclr`: the other videos of the batch; `moco`: a queue of earlier keys."""
    backbone: str = "r2plus1d"
    init: str = ""
    """sha256 of the file whose weights the run begins with (`--init`); "": the seed draws them."""
    clip_dim: int = 128
    segment_dim: int = 64
    channel_multiple: int | None = None
    """R(2+1)D's middle channels are padded with zeros to a multiple of it; what is computed,
    checkpoints and exports stay as they are. none: 8 on a GPU, 1 on a CPU."""
    batch_norm_views: Literal["together", "original", "all"] = "together"
    """Views that batch norm sees together: those that the objective compares; the released code's
    groups, one forward each; or all four, compared or not, as before these were told apart."""

    def __post_init__(self) -> None:
        check_at_least_1(self, "model", "channel_multiple", most=64)
        check_at_least_1(self, "model", "clip_dim", "segment_dim", most=65_536)


@dataclass(frozen=True, kw_only=True)
class MomentumConfig:
    """The queue and the momentum encoder of `model.framework = "moco"`; unused otherwise."""

    queue_size: int = 16384
    """Keys kept as negatives."""
    momentum: float = 0.999
    """Share of its own weights that the momentum encoder keeps in a step."""

    def __post_init__(self) -> None:
        check_at_least_1(self, "moco", "queue_size")
        check(0 <= self.momentum < 1, "moco.momentum", self.momentum, "must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective, and the temperatures and weights of its parts (docs/paper.md)."""

    objective: Objective = Objective.CLIP_RANK_COHERENCE
    clip_temperature: float = 0.07
    coherence_temperature: float = 0.07
    rank_temperature: float = 0.05
    rank_clip: float | None = None
    """Clamp of the shuffle-rank argument, 5.0 in the paper's SimCLR code; none: no clamp."""
    clip_weight: float = 1.0
    """Factor of the clip contrast in the sum; the released code trained with 1 / processes."""
    coherence_weight: float = 1.0
    rank_weight: float = 1.0
    backend: Literal["auto", "eager", "fused"] = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", Objective(self.objective))  # its name will do
        for name in ("clip_temperature", "coherence_temperature", "rank_temperature"):
            check(getattr(self, name) > 0, f"loss.{name}", getattr(self, name), "must be positive")
        for part in Part:
            weight, rule = getattr(self, f"{part}_weight"), "must be positive and finite"
            rule += "; to leave a part out, take it out of loss.objective"
            check(0 < weight < math.inf, f"loss.{part}_weight", weight, rule)
        limit = self.rank_clip
        check(limit is None or limit > 0, "loss.rank_clip", limit, "must be positive, or none")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """SGD with momentum (the paper), LARS (large batches) or AdamW."""

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    learning_rate: float = 0.003
    batch_scaling: Literal["none", "linear", "sqrt"] = "none"
    """`linear`, `sqrt`: the rate is meant for 64 videos and grows so with `data.batch_size`."""
    momentum: float = 0.9
    """Momentum of SGD and LARS; first of the two decay rates of AdamW."""
    weight_decay: float = 1e-4
    max_gradient_norm: float | None = None
    """Gradients are scaled down to this norm over all weights; none: never."""
    accumulate_chunks: int = 1
    """Parts in which a process embeds its share of a batch: less memory, a second forward."""

    def __post_init__(self) -> None:
        rate, momentum, decay = self.learning_rate, self.momentum, self.weight_decay
        check(0 < rate < math.inf, "optimiser.learning_rate", rate, "must be positive and finite")
        check(0 <= momentum < 1, "optimiser.momentum", momentum, "must lie in [0, 1)")
        check(0 <= decay < math.inf, "optimiser.weight_decay", decay, "must be 0 or more")
        norm = self.max_gradient_norm
        rule = "must be positive, or none"
        check(norm is None or norm > 0, "optimiser.max_gradient_norm", norm, rule)
        check_at_least_1(self, "optimiser", "accumulate_chunks")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Length of the run and course of the learning rate."""

    epochs: int = 200
    kind: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = (120, 160)
    """Epochs at whose start the learning rate is multiplied by `factor` (kind `step`)."""
    factor: float = 0.1
    warmup_epochs: float = 0.0
    """The learning rate rises linearly from 0 over so many epochs; fractions are allowed. A run
    that is not longer than that rises over its first half."""

    def __post_init__(self) -> None:
        stones, warmup = self.milestones, self.warmup_epochs
        check_at_least_1(self, "schedule", "epochs")
        rising = all(a < b for a, b in zip((0, *stones), stones, strict=False))
        check(rising, "schedule.milestones", stones, "must be rising epochs from 1 on")
        check(0 < self.factor <= 1, "schedule.factor", self.factor, "must lie in (0, 1]")
        check(warmup >= 0, "schedule.warmup_epochs", warmup, "must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Seed, device, and how often the run reports and saves."""

    seed: int = 0
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` ...; `auto`: the first CUDA device if there is one, else the CPU."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 autocast on CUDA, fp32 on a CPU."""
    compile: Literal["auto", "on", "max-autotune", "cuda-graphs", "off"] = "auto"
    """torch.compile; `auto`: `on` with CUDA only; `max-autotune`: tries kernels for minutes first;
    `cuda-graphs`: launches a pass as a whole."""
    batch_norm: Literal["synchronised", "local"] = "synchronised"
    """With several processes, statistics over the clips of all of them; `local`: of each alone,
    without the messages of every layer, and with another result."""
    recompute_activations: Literal["on", "off"] = "off"
    """`on`: keep only the inputs of a backbone's stages and compute the rest again in the backward:
    less memory, a second forward; without torch.compile."""
    log_every_steps: int = 10
    """Steps between two readings of the metrics, which wait for the device. To estimate the time, a
    process also reads after 5 and 20 steps."""
    checkpoint_every_steps: int = 500
    keep_checkpoints: int = 3
    keep_every_epochs: int | None = None
    """A checkpoint after every so many epochs stays for good; none: only the newest stay."""
    timeout_seconds: int = 600
    """A process that has not joined, or not answered the others, for this long ends the run."""
    verbose: bool = False
    """Show every metric, the speed and the wait for data, in long lines; the log has them all."""
    numa_binding: Literal["auto", "off"] = "auto"
    """`auto`: --gpus binds each process to the CPUs near its GPU, where torch and numactl can."""
    wandb_project: str | None = None
    """Project of Weights & Biases that gets the numbers too; needs wandb."""

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**64, "run.seed", self.seed, "must lie in [0, 2^64)")
        check_at_least_1(self, "run", "log_every_steps", "checkpoint_every_steps")
        check_at_least_1(self, "run", "keep_checkpoints", "keep_every_epochs")
        # Milliseconds of it are counted with 32 bits.
        check_at_least_1(self, "run", "timeout_seconds", most=1_000_000)


class TrainingConfig(Protocol):
    """The sections that the configs of all kinds of training share."""

    @property
    def data(self) -> DataConfig: ...

    @property
    def clip(self) -> ClipSpec: ...

    @property
    def optimiser(self) -> OptimiserConfig: ...

    @property
    def schedule(self) -> ScheduleConfig: ...

    @property
    def run(self) -> RunConfig: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides what a pretraining run computes, section by section."""

    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    model: ModelConfig = field(default_factory=ModelConfig)
    moco: MomentumConfig = field(default_factory=MomentumConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        segments, ranks = self.clip.num_segments, Part.RANK in self.loss.objective.parts
        rule = "ranking needs 2 segments or more; take rank out of loss.objective"
        check(segments >= 2 or not ranks, "clip.num_segments", segments, rule, "loss.objective")
        # What no loss compares is neither loaded nor embedded; no recipe can set it.
        every = self.model.batch_norm_views == "all"
        views = ALL_VIEWS if every else self.loss.objective.views
        object.__setattr__(self, "clip", replace(self.clip, views=views))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by dotted key, as checkpoints keep them."""
        return {key: value for key, value in flatten(self).items() if key not in FIXED_KEYS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, origin: str) -> "PretrainConfig":
        """Build from dotted keys; errors name `origin` (a recipe, a checkpoint)."""
        return build(cls, [(origin, supported(values))], fixed_keys=FIXED_KEYS).config


def resolve(
    layers: Iterable[tuple[str, Mapping[str, Any]]], settings: Sequence[str] = ()
) -> Resolved[PretrainConfig]:
    """Return the config of pretraining that layers and settings make.

    Args:
        layers: Pairs of an origin and its values by dotted key; the last wins.
        settings: Texts `key=value`; they win over all layers.

    Raises:
        InputError: An unknown key, or a value that is refused.
    """
    return build(PretrainConfig, layers, settings=settings, fixed_keys=FIXED_KEYS)
