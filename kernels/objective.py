"""Which losses of the paper (arXiv:2107.01194) are added up, how, and which views they compare."""

from enum import StrEnum
from typing import NamedTuple, Self

from torch import Tensor

from fastdual.kernels.checks import as_rank_numbers, as_temperature, as_weight, check_choice


class Part(StrEnum):
    """A loss that an objective may hold."""

    CLIP = "clip"
    RANK = "rank"
    COHERENCE = "coherence"


# Views of a video that a part compares; view 3 is view 2 with its segments shuffled.
_VIEWS = {Part.CLIP: {0, 1}, Part.RANK: {0, 2, 3}, Part.COHERENCE: {0, 1}}


class Objective(StrEnum):
    """The sums of losses that can be trained; a value is written as its parts joined by `+`."""

    CLIP = "clip"
    RANK = "rank"
    COHERENCE = "coherence"
    CLIP_RANK = "clip+rank"
    CLIP_COHERENCE = "clip+coherence"
    RANK_COHERENCE = "rank+coherence"
    CLIP_RANK_COHERENCE = "clip+rank+coherence"

    @property
    def parts(self) -> tuple[Part, ...]:
        """The losses of the sum, in the order of the name."""
        return tuple(map(Part, self.value.split("+")))

    @property
    def views(self) -> tuple[int, ...]:
        """The views that the losses compare, rising; no other needs to be loaded or embedded."""
        return tuple(sorted(set().union(*(_VIEWS[part] for part in self.parts))))


# Of strings, as torch 2.11 cannot trace an enumeration's class.
_PARTS = {str(objective): objective.parts for objective in Objective}


class DualVarianceSettings(NamedTuple):
    """What the loss of the paper adds up, and how; checked where it is used.

    Attributes:
        objective: Which losses are added up, a value of `Objective`.
        clip_temperature: Softmax divisor of the clip contrast, a float or a 0-d tensor.
        coherence_temperature: Softmax divisor of the temporal coherence, likewise.
        rank_temperature: Divisor inside the softplus of the shuffle-rank loss.
        rank_clip: Largest argument of that softplus; None for no limit.
        clip_weight: Factor of the clip contrast in the total, 0 or more.
        coherence_weight: Factor of the temporal coherence.
        rank_weight: Factor of the shuffle-rank loss.
    """

    objective: str = Objective.CLIP_RANK_COHERENCE
    clip_temperature: float | Tensor = 0.07
    coherence_temperature: float | Tensor = 0.07
    rank_temperature: float = 0.05
    rank_clip: float | None = None
    clip_weight: float = 1.0
    coherence_weight: float = 1.0
    rank_weight: float = 1.0

    @property
    def parts(self) -> tuple[Part, ...]:
        """The losses of the sum."""
        return _PARTS[self.objective]

    @property
    def weights(self) -> dict[Part, float]:
        """The factor of each loss."""
        return {
            Part.CLIP: self.clip_weight,
            Part.COHERENCE: self.coherence_weight,
            Part.RANK: self.rank_weight,
        }

    def checked(self) -> Self:
        """Return the settings with plain numbers.

        Raises:
            ValueError: One of them cannot be meant; names it.
        """
        check_choice("objective", self.objective, _PARTS)
        temperature, clip = as_rank_numbers(self.rank_temperature, self.rank_clip, prefix="rank_")
        return self._replace(
            clip_temperature=as_temperature(self.clip_temperature, "clip_temperature"),
            coherence_temperature=as_temperature(
                self.coherence_temperature, "coherence_temperature"
            ),
            rank_temperature=temperature,
            rank_clip=clip,
            clip_weight=as_weight(self.clip_weight, "clip_weight"),
            coherence_weight=as_weight(self.coherence_weight, "coherence_weight"),
            rank_weight=as_weight(self.rank_weight, "rank_weight"),
        )
