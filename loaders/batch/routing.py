"""Which videos the DALI graph decodes and which PyAV decodes in its place, and why.

What the index and the driver say is known before the run; the rest is learnt from failures. A file
that fails is given to PyAV; a kind of which several fail is given up, and the decoder itself where
nothing works at all. A decoder that was asked for by name has no substitute: the run ends.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fastdual.errors import FailureError, InputError
from fastdual.loaders.batch.decoder import DecodeChoice
from fastdual.loaders.batch.kinds import Kind, kinds_of, why_not_files, why_not_kind
from fastdual.loaders.batch.nvdec import Nvdec
from fastdual.loaders.index.table import VideoIndex

Ints = NDArray[np.int64]

MOST_FAILURES = 3  # files of one kind, unless 99 of 100 of it work
_FAILED_SHARE = 0.01
_FAILED_CHUNKS = 2

logger = logging.getLogger("fastdual.loaders")


class Routing:
    """Decides, for one loader, who decodes each video.

    Args:
        index: The videos.
        videos: Numbers of those that the loader shows.
        choice: The decoder.
        device: Of the clips; a CUDA device is asked what it decodes.

    Raises:
        InputError: The decoder was asked for by name and cannot decode all of them.
    """

    def __init__(
        self, index: VideoIndex, videos: Ints, choice: DecodeChoice, device: torch.device
    ) -> None:
        self.choice, self._index = choice, index
        self._uses_dali = choice.decoder != "pyav"
        self._off = ""
        self._refused: dict[Kind, str] = {}
        self._files: dict[int, str] = {}
        self._failures: Counter[Kind] = Counter()
        self._rows: Counter[Kind] = Counter()
        self._failed_in_a_row = self._failed_chunks = 0
        if self._uses_dali:
            self._kinds = kinds_of(index)
            self._learn_from_index(videos, Nvdec(device) if choice.decoder == "nvdec" else None)

    def _learn_from_index(self, videos: Ints, nvdec: Nvdec | None) -> None:
        for kind in dict.fromkeys(self._kinds):
            reason = why_not_kind(self.choice.decoder, kind)
            if reason is None and nvdec is not None and kind.pixel_format:
                reason = nvdec.why_not(kind)
            if reason is not None:
                self._refused[kind] = reason
        reasons = why_not_files(self.choice.decoder, self._index)
        self._files = {video: reason for video, reason in enumerate(reasons) if reason is not None}
        left = [(video, why) for video in videos.tolist() if (why := self.why_not(video))]
        if not left:
            return
        counts = Counter(reason for _, reason in left)
        named = "; ".join(f"{count:,}: {reason}" for reason, count in counts.most_common())
        what = f"{len(left):,} of {len(videos):,} videos"
        first = self._index.path(left[0][0])
        if self.choice.is_strict:
            raise InputError(
                f"decode {self.choice.decoder} cannot decode {what} (the first: {first}): {named}; "
                "use auto, with which PyAV decodes these, or fastdual pack --codec"
            )
        logger.warning(
            "PyAV decodes %s in place of %s (the first: %s): %s",
            what, self.choice.decoder, first, named,
        )  # fmt: skip

    def kind(self, video: int) -> Kind:
        """Return the kind of a video; DALI is the decoder."""
        return self._kinds[video]

    def why_not(self, video: int) -> str | None:
        """Return why PyAV decodes a video in place of DALI; "" where PyAV is the decoder."""
        if not self._uses_dali:
            return ""
        known = self._off or self._refused.get(self._kinds[video]) or self._files.get(video)
        return known or None

    def work(self, videos: Sequence[int]) -> None:
        """Note that DALI has decoded these."""
        self._rows.update(self._kinds[video] for video in videos)
        self._failed_in_a_row = self._failed_chunks = 0

    def fail(self, video: int, reason: str) -> None:
        """Note that DALI could not decode a video alone.

        Raises:
            FailureError: The decoder has no substitute.
        """
        kind, path = self._kinds[video], self._index.path(video)
        self._refuse_strict(f"it failed on {path} ({kind}): {reason}")
        self._files[video] = reason
        self._failures[kind] += 1
        self._failed_in_a_row += 1
        failures = self._failures[kind]
        if failures >= MOST_FAILURES and failures > _FAILED_SHARE * self._rows[kind]:
            self.refuse(kind, f"{self.choice.decoder} failed on {failures} videos of it: {reason}")
        else:
            logger.warning("PyAV decodes %s in place of %s: %s", path, self.choice.decoder, reason)

    def fail_chunk(self, reason: str) -> None:
        """Note that DALI could decode nothing of a chunk: after two in a row it is not asked again.

        Raises:
            FailureError: The decoder has no substitute.
        """
        self._failed_chunks += 1
        if self._failed_chunks >= _FAILED_CHUNKS and self._failed_in_a_row >= MOST_FAILURES:
            self._off = f"{self.choice.decoder} does not work here: {reason}"
            self._refuse_strict(reason)
            logger.warning("%s; PyAV decodes everything from here on", self._off)

    def refuse(self, kind: Kind, reason: str) -> None:
        """Leave a kind to PyAV from here on.

        Raises:
            FailureError: The decoder has no substitute.
        """
        self._refuse_strict(f"{kind}: {reason}")
        self._refused[kind] = reason
        logger.warning(
            "PyAV decodes %s from here on, in place of %s: %s", kind, self.choice.decoder, reason
        )

    def _refuse_strict(self, what: str) -> None:
        if self.choice.is_strict:
            raise FailureError(
                f"decode {self.choice.decoder} was asked for and cannot be used: {what}; use auto "
                "or pyav"
            )
