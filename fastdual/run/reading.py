"""A reading of a run's metrics, and the steps that the first readings are taken after."""

from collections.abc import Mapping
from dataclasses import dataclass

# The time per epoch is estimated after this many steps: enough for a mean, early enough to change
# one's mind. Its first quarter does not count: torch compiles, and cuDNN picks its algorithms.
_STEPS_OF_ESTIMATE = 20
# Metrics that are shares of right answers, shown in percent.
SHARES = ("clip_top1", "coherence_top1", "rank_accuracy", "train_top1")
# Metrics that few people read: the log has them, the terminal does not.
LOGGED_ONLY = ("clip_top5", "coherence_top5", "gradient_norm")


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One reading: means over the steps since the last one.

    Attributes:
        step: Steps done.
        total_steps: Length of the run.
        epoch: Epochs done, with a fraction.
        learning_rate: Rate of the last step.
        metrics: Mean of each metric, by name.
        clips_per_second: Clips through the network (four per video in pretraining).
        data_wait_share: Share of the time in which the loop waited for a batch.
        seconds_left: Estimate, from the time of recent steps.
    """

    step: int
    total_steps: int
    epoch: float
    learning_rate: float
    metrics: Mapping[str, float]
    clips_per_second: float
    data_wait_share: float
    seconds_left: float


def estimate_steps(start_step: int, total_steps: int) -> tuple[int, int]:
    """Return the two steps between which the time per epoch is measured; both are read.

    Args:
        start_step: Steps that earlier processes did.
        total_steps: Length of the run; a short one is measured over its first half.
    """
    left = total_steps - start_step
    steps = _STEPS_OF_ESTIMATE if left > _STEPS_OF_ESTIMATE else max(1, left // 2)
    return start_step + steps // 4, start_step + steps
