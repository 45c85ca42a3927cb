"""Which losses of the paper (arXiv:2107.01194) are added up, and which views they compare."""

from enum import StrEnum


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
