"""Which rank sees which video when: a pure function of (seed, epoch, step).

Global batch t of an epoch is a fixed slice of that epoch's permutation, and a rank takes its
contiguous part of it. Nothing is remembered between calls, so a run resumes anywhere, on any number
of processes, without replaying the steps before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError

Ints = NDArray[np.int64]

_ORDER_STREAM = 1  # the counter word that keeps these numbers apart from the plan's
_CHUNK = 1 << 20


class EpochOrder:
    """The order of the videos in every epoch, cut into global batches.

    Args:
        videos: [N] index numbers, or the number of videos.
        global_batch_size: Videos of one step, over all ranks.
        seed: Whole number in [0, 2**64).
        shuffle: Permute each epoch; otherwise keep the given order.
        drop_last: Leave out the incomplete last batch; otherwise it is short.

    Raises:
        InputError: There are no videos, or a batch is never full.
    """

    def __init__(
        self,
        videos: Ints | int,
        *,
        global_batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        self._videos = None if isinstance(videos, int) else np.asarray(videos, np.int64)
        self.num_videos = videos if isinstance(videos, int) else len(videos)
        self.global_batch_size = global_batch_size
        self.batches_per_epoch = self.num_videos // max(global_batch_size, 1)
        if global_batch_size < 1:
            raise InputError(f"batch size {global_batch_size} must be at least 1")
        if self.num_videos < 1:
            raise InputError("there are no videos to load; choose another split or folder")
        if drop_last and self.batches_per_epoch == 0:
            raise InputError(
                f"a batch of {global_batch_size} is larger than the data: {self.num_videos} videos;"
                f" use a batch size of at most {self.num_videos}"
            )
        if not 0 <= seed < 2**64:
            raise InputError(f"seed {seed} must lie in [0, 2**64)")
        if not drop_last:
            self.batches_per_epoch = -(-self.num_videos // global_batch_size)
        self._seed, self._shuffle = seed, shuffle
        self._cached: tuple[int, Ints | None] = (-1, None)

    def batch(self, epoch: int, step: int) -> Ints:
        """Return the videos of a global batch, [global_batch_size] or fewer in the last one."""
        return self.at(epoch, *self.span(step))

    def span(self, step: int) -> tuple[int, int]:
        """Return a global batch's first position in the epoch's order, and the one after its last.

        Raises:
            InputError: There is no such step in an epoch.
        """
        if not 0 <= step < self.batches_per_epoch:
            raise InputError(f"step {step} is not in an epoch of {self.batches_per_epoch} batches")
        start = step * self.global_batch_size
        return start, min(start + self.global_batch_size, self.num_videos)

    def at(self, epoch: int, start: int, stop: int) -> Ints:
        """Return the videos at positions start..stop-1 of an epoch's order, [stop - start]."""
        order = self._order(epoch)
        positions = np.arange(start, stop) if order is None else order[start:stop].copy()
        return positions if self._videos is None else self._videos[positions]

    def substitutes(self, epoch: int, position: int) -> Iterator[int]:
        """Yield the videos to try where the one at `position` cannot be shown.

        They follow the position in the epoch's order and wrap around its end. So the substitute
        depends on the order and on which files are bad, not on the rank or on earlier batches.
        """
        for offset in range(1, self.num_videos):
            place = (position + offset) % self.num_videos
            yield int(self.at(epoch, place, place + 1)[0])

    def _order(self, epoch: int) -> Ints | None:
        if not self._shuffle:
            return None
        if self._cached[0] != epoch:
            self._cached = (-1, None)  # 80 MB for 10 million videos: free them before the next
            self._cached = (epoch, permute(self.num_videos, seed=self._seed, epoch=epoch))
        return self._cached[1]


def rank_span(start: int, stop: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """Return the part of positions start..stop-1 that a rank takes: first, and after the last."""
    size = stop - start
    return start + rank * size // world_size, start + (rank + 1) * size // world_size


def check_world(*, rank: int, world_size: int, global_batch_size: int) -> None:
    """Check that the global batch divides evenly over the ranks.

    Raises:
        InputError: It does not, or there is no such rank.
    """
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} is not in a world of {world_size} processes")
    if global_batch_size % world_size:
        raise InputError(
            f"batch size {global_batch_size} does not divide over {world_size} processes; use a "
            f"multiple of {world_size} (batch size counts the videos of all processes together)"
        )


def permute(count: int, *, seed: int, epoch: int) -> Ints:
    """Return a permutation of 0..count-1, [count] int64.

    Random words that carry the numbers in their low bits are sorted. For 4 videos, with words of 8
    bits instead of 64:

        random words    101101|10  011000|01  111010|11  001011|01
        with numbers    101101|00  011000|01  111010|10  001011|11    the low bits are 0, 1, 2, 3
        sorted          001011|11  011000|01  101101|00  111010|10
        permutation            3          1          0          2

    Sorting in place needs 8 bytes per video, and unlike a library's shuffle it stays the same over
    versions. At least 64 - log2(count) random bits decide.
    """
    # As an array: numpy turns a list with a large word into floats and loses its low bits.
    key = np.array([seed, epoch], np.uint64)
    generator = np.random.Philox(key=key, counter=[0, 0, 0, _ORDER_STREAM])
    number_mask = np.uint64((1 << max(count - 1, 0).bit_length()) - 1)
    words = np.empty(count, np.uint64)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        random = generator.random_raw(stop - start)
        words[start:stop] = (random & ~number_mask) | np.arange(start, stop, dtype=np.uint64)
    words.sort()
    words &= number_mask
    return words.view(np.int64)
