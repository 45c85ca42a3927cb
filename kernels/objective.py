"""Which losses of the paper (arXiv:2107.01194) are added up."""

from enum import StrEnum


class Part(StrEnum):
    """A loss that an objective may hold."""

    CLIP = "clip"
    RANK = "rank"
    COHERENCE = "coherence"


class Objective(StrEnum):
    """The sums of losses that can be trained; a value is written as its parts joined by `+`."""

    CLIP = "clip"
    CLIP_RANK = "clip+rank"
    CLIP_RANK_COHERENCE = "clip+rank+coherence"

    @property
    def parts(self) -> tuple[Part, ...]:
        """The losses of the sum, in the order of the name."""
        return tuple(map(Part, self.value.split("+")))
