"""Noticing that the embeddings of all videos have become one, so that nothing more is learned."""

from torch import Tensor

# Below a tenth of the temperature, logits of different videos differ by a tenth on average: the
# softmax is even to within some 10 %, so that the contrast no longer tells the videos apart.
_SHARE_OF_TEMPERATURE = 0.1
_READINGS_IN_A_ROW = 2


def embedding_spread(embeddings: Tensor) -> Tensor:
    """Return the mean of 1 - cosine over pairs of different rows of [B, D] unit vectors, 0-d.

    It is about 1 for random directions, and 0 where all rows are equal.
    """
    count = len(embeddings)
    # The mean over all B^2 pairs is |mean|^2; B of them are a row with itself, at distance 0.
    scale = count / max(count - 1, 1)
    return scale * (1.0 - embeddings.detach().mean(dim=0).square().sum())


class CollapseWatch:
    """Follows the spread of the clip embeddings, and warns once when it is gone.

    A fresh network embeds all videos alike too, so the first epoch does not count.

    Args:
        temperature: Of the clip contrast.
        steps_per_epoch: Steps that do not count.
    """

    metric, event = "spread", "collapse"

    def __init__(self, temperature: float, *, steps_per_epoch: int) -> None:
        self.threshold = _SHARE_OF_TEMPERATURE * temperature
        self._first_step = steps_per_epoch
        self._low_readings = 0

    def look(self, spread: float, *, step: int) -> str | None:
        """Return a warning when enough readings in a row are below the threshold."""
        low = spread < self.threshold and step > self._first_step
        self._low_readings = self._low_readings + 1 if low else 0
        if self._low_readings != _READINGS_IN_A_ROW:
            return None
        return (
            f"step {step}: the embeddings of different videos have become alike (spread "
            f"{spread:.1e}, below {self.threshold:.1e}): the network collapses; lower "
            "optimiser.learning_rate, add schedule.warmup_epochs, or go back to an earlier "
            "checkpoint"
        )
