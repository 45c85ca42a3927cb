"""Noticing that the rank loss stays where a network is that knows only the places of segments."""

import math
from collections import deque

# A reading of 160 videos scatters by 3 %, as it holds more or fewer segments that were moved.
_READINGS = 10
_SHARE = 0.97
# Runs that left the plateau had left it after 1,000 steps.
_PATIENCE_STEPS = 2000


def rank_plateau(num_segments: int) -> float:
    """Return the least rank loss of embeddings that know the place of a segment and nothing else.

    Such a network calls the first segment of the shuffled clip the first, whatever it shows. With
    u = (1 - cosine of two places) / temperature, a segment that was not moved has 2S - 2 others at
    softplus(-u); one that was moved has one at softplus(u) and 2S - 3 at ln 2. A permutation leaves
    a segment where it was with probability 1/S; the mean is least at u = ln 2 for every S.
    """
    stayed = math.log(1.5)
    moved = (math.log(3) + (2 * num_segments - 3) * math.log(2)) / (2 * num_segments - 2)
    return (stayed + (num_segments - 1) * moved) / num_segments


class RankPlateauWatch:
    """Follows the mean of the last readings of the rank loss, and warns once if it has not left.

    Args:
        num_segments: S.
        total_steps: Length of the run; its first half, or 2,000 steps, do not count.
    """

    metric, event = "rank", "plateau"

    def __init__(self, num_segments: int, *, total_steps: int) -> None:
        self.plateau = rank_plateau(num_segments)
        self._first_step = min(total_steps // 2, _PATIENCE_STEPS)
        self._readings: deque[float] = deque(maxlen=_READINGS)
        self._has_warned = False

    def look(self, rank: float, *, step: int) -> str | None:
        """Return a warning, once, when the readings are those of one that knows only places."""
        if step <= self._first_step or self._has_warned:
            return None
        self._readings.append(rank)
        mean = sum(self._readings) / len(self._readings)
        if len(self._readings) < _READINGS or mean < _SHARE * self.plateau:
            return None
        self._has_warned = True
        return (
            f"step {step}: the rank loss stays at {mean:.2f}, and {self.plateau:.2f} is what a "
            "network has that knows the place of a segment and nothing of its content: lower "
            "optimiser.learning_rate (3e-4 with adamw), weaken the contrasts "
            "(loss.clip_temperature=1, loss.coherence_temperature=3), let clips span more of a "
            "video (clip.frame_stride), or train longer; recipe tiny has settings that learn"
        )
