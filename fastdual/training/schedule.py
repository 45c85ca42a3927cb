"""Learning rates as pure functions of the step.

A rate has no state: a run resumed at step n continues with the rate that it would have had.
"""

import math

from fastdual.config.sections import OptimiserConfig, ScheduleConfig

# The batch of the paper: 8 GPUs x 8 videos.
REFERENCE_BATCH_SIZE = 64


def learning_rate(
    step: int, schedule: ScheduleConfig, *, base_rate: float, steps_per_epoch: int
) -> float:
    """Return the learning rate of a step.

    Args:
        step: Steps done before it, from 0 on.
        schedule: Kind `step` multiplies by `factor` at the start of each milestone's epoch;
            `cosine` falls along half a cosine, from the end of the warm-up to 0 at the run's end.
        base_rate: The rate at the end of the warm-up.
        steps_per_epoch: Batches per epoch.
    """
    warmup_epochs, epochs = schedule.warmup_epochs, schedule.epochs
    # A run shortened for a trial need not change its recipe.
    warmup_steps = (warmup_epochs if warmup_epochs < epochs else epochs / 2) * steps_per_epoch
    # The first step already moves: it takes the rate that a linear rise reaches at its end.
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if schedule.kind == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in schedule.milestones)
        return base_rate * rise * schedule.factor**passed
    remaining_steps = schedule.epochs * steps_per_epoch - warmup_steps
    share_done = max(0.0, step - warmup_steps) / remaining_steps
    return base_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(share_done, 1.0)))


def base_learning_rate(config: OptimiserConfig, *, batch_size: int) -> float:
    """Return the rate at the end of the warm-up: as configured, or scaled to the batch size.

    Args:
        config: Its rate is the one of a batch of 64 videos where it asks for scaling: `linear` in
            the batch size (arXiv:1706.02677, for SGD), or its square root (LARS and AdamW).
        batch_size: Videos in a batch, over all processes together.
    """
    ratio = batch_size / REFERENCE_BATCH_SIZE
    factor = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.batch_scaling]
    return config.learning_rate * factor
