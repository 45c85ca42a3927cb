"""Do a training split and a test split share what they must not: groups, files, pictures?

Shapes: N training videos, Q test videos, K thumbnails a video, P pixels of them all.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.errors import InputError
from fastdual.evaluate.features import FeatureSet
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.files import write
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec

# The perceptual hash of a video: thumbnails from its start to its end, as real numbers.
_HASH_SPEC = ClipSpec(
    mode="evaluate",
    frames_per_clip=1,
    frame_stride=1,
    num_segments=1,
    clips_per_video=8,
    resize_height=24,
    resize_width=32,
    crop_size=24,
)
# Two encodings of one video differ less than two takes of one scene: the first threshold is for the
# mean picture, the second for what moves.
_SAME_LOOK, _SAME_MOTION = 0.95, 0.98
# Motion below this (of a grey level's deviation, in units of the normalisation) is coding noise.
_STILL = 0.03
_BLOCK = 1024
_SHOWN = 5


@dataclass(frozen=True)
class Overlap:
    """A training video and a test video that share something, and what."""

    kind: Literal["same video", "same bytes", "near-identical", "same features", "same group"]
    train: str
    test: str


def settle_overlaps(
    found: Sequence[Sequence[Overlap]], *, allowed: bool, listing: Path | None
) -> list[list[dict[str, Any]]]:
    """Write the overlaps of some pairs of splits, then refuse them unless they are allowed.

    Args:
        found: The overlaps of each pair of splits.
        allowed: Go on in spite of overlaps.
        listing: Where to write all of them; None: nowhere.

    Returns:
        The overlaps of each pair as plain values.

    Raises:
        InputError: There are some, and they are not allowed; names the first ones.
        FailureError: The file cannot be written.
    """
    if listing is not None:
        # Splits of one data set share videos, and so overlaps: each is written once.
        write_overlaps(listing, [*dict.fromkeys(overlap for of in found for overlap in of)])
    return [refuse_overlaps(of, allowed=allowed, listing=listing) for of in found]


def refuse_overlaps(
    overlaps: Sequence[Overlap], *, allowed: bool, listing: Path | None = None
) -> list[dict[str, Any]]:
    """The overlaps as plain values, where they are allowed.

    Args:
        overlaps: of one training and one test split.
        allowed: go on all the same.
        listing: where `write_overlaps` wrote them all, for the error.

    Raises:
        InputError: there are some, and they are not allowed; names the first pairs.
    """
    if overlaps and not allowed:
        pairs = "; ".join(f"{o.kind}: {o.train} and {o.test}" for o in overlaps[:_SHOWN])
        more = f"; and {len(overlaps) - _SHOWN} more" if len(overlaps) > _SHOWN else ""
        every = "--overlaps FILE writes every pair" if listing is None else f"all are in {listing}"
        raise InputError(
            f"the two splits overlap in {len(overlaps)} pairs, so a test would see what is known "
            f"already: {pairs}{more}. Choose other splits; {every}, --allow-overlap measures all "
            "the same"
        )
    return [asdict(overlap) for overlap in overlaps]


def write_overlaps(path: Path, overlaps: Sequence[Overlap]) -> None:
    """Write pairs as a CSV file: kind, training video, test video.

    Raises:
        FailureError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "train", "test"])
    writer.writerows((overlap.kind, overlap.train, overlap.test) for overlap in overlaps)
    write(path, text.getvalue(), "the list of overlaps")


def index_overlaps(
    index: VideoIndex,
    train: str | None,
    test: str | None,
    *,
    decode: Requested = "auto",
    num_workers: int | None = None,
) -> list[Overlap]:
    """What two splits of an index share: videos, groups (once each), bytes, pictures.

    Near-identical means another encoding or size of the same video; a part cut out of a longer one
    is not found.

    Raises:
        InputError: no such split.
        FailureError: too many videos cannot be decoded.
    """
    train_rows, test_rows = index.split(train), index.split(test)
    shared = np.intersect1d(train_rows, test_rows)
    found = [Overlap("same video", index.paths[v], index.paths[v]) for v in shared.tolist()]
    known = {(v, v) for v in shared.tolist()}
    for kind, pairs in (
        ("same group", _same_group_pairs(index.groups, train_rows, test_rows)),
        ("same bytes", _same_bytes_pairs(index, train_rows, test_rows)),
        ("near-identical", _near_pairs(index, train, test, decode, num_workers)),
    ):
        new = [pair for pair in pairs if pair not in known]
        found += [Overlap(kind, index.paths[a], index.paths[b]) for a, b in new]  # type: ignore[arg-type]
        known.update(new)
    return found


def feature_overlaps(train: FeatureSet, test: FeatureSet) -> list[Overlap]:
    """What can be told from features alone: shared groups (of one index), equal features."""
    groups = train.groups + test.groups
    rows = np.arange(len(groups))
    pairs: list[tuple[str, list[tuple[int, int]]]] = []
    if train.data_fingerprint == test.data_fingerprint:
        sides = rows[: len(train)], rows[len(train) :]
        pairs.append(("same group", _same_group_pairs(groups, *sides)))
    keys = [row.tobytes() for row in (*train.features, *test.features)]
    pairs.append(("same features", _equal_pairs(keys, len(train))))
    paths = train.paths + test.paths
    return [Overlap(kind, paths[a], paths[b]) for kind, of in pairs for a, b in of]  # type: ignore[arg-type]


def _same_group_pairs(
    groups: Sequence[str], train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """One pair for each group that is on both sides."""
    first: dict[str, int] = {}
    for row in train_rows.tolist():
        first.setdefault(groups[row], row)
    seen: dict[str, tuple[int, int]] = {}
    for row in test_rows.tolist():
        if groups[row] and groups[row] in first:
            seen.setdefault(groups[row], (first[groups[row]], row))
    return list(seen.values())


def _equal_pairs(keys: Sequence[bytes], num_train: int) -> list[tuple[int, int]]:
    rows: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, key in enumerate(keys[:num_train]):
        rows[key].append(row)
    return [(a, row) for row, key in enumerate(keys[num_train:], num_train) for a in rows[key]]


def _same_bytes_pairs(
    index: VideoIndex, train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    rows: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in train_rows.tolist():
        rows[index.sha256[row].tobytes()].append(row)
    return [
        (other, row)
        for row in test_rows.tolist()
        for other in rows.get(index.sha256[row].tobytes(), ())
        if other != row
    ]


def _near_pairs(
    index: VideoIndex,
    train: str | None,
    test: str | None,
    decode: Requested,
    num_workers: int | None,
) -> list[tuple[int, int]]:
    sides = [_thumbnails(index, split, decode, num_workers) for split in (train, test)]
    (train_rows, train_thumbs), (test_rows, test_thumbs) = sides
    return [(train_rows[a], test_rows[b]) for a, b in near_identical(train_thumbs, test_thumbs)]


def _thumbnails(
    index: VideoIndex, split: str | None, decode: Requested, num_workers: int | None
) -> tuple[list[int], Tensor]:
    """Video numbers and grey thumbnails [N, K, P / K]."""
    loader = ClipLoader(
        index,
        _HASH_SPEC,
        batch_size=min(64, len(index.split(split))),
        split=split,
        decode=decode if decode != "nvdec" else "auto",  # the thumbnails are wanted on the CPU
        num_workers=num_workers,
        shuffle=False,
        drop_last=False,
    )
    rows: dict[int, Tensor] = {}
    with loader:
        for batch in loader:
            grey = batch.clips.mean(dim=2).flatten(2)  # [B, K, pixels]
            rows.update(zip(batch.video_ids.tolist(), grey.clone(), strict=True))
    return list(rows), torch.stack(list(rows.values()))


def near_identical(train: Tensor, test: Tensor) -> list[tuple[int, int]]:
    """Row numbers of pairs that show the same pictures, from thumbnails [N, K, P / K].

    The mean pictures must agree and, where something moves, the deviations from them too: videos of
    one fixed camera share the first but not the second.
    """
    (train_look, train_motion, train_still), (test_look, test_motion, test_still) = (
        _look_and_motion(thumbs) for thumbs in (train, test)
    )
    found = []
    for start in range(0, len(test), _BLOCK):
        block = slice(start, start + _BLOCK)
        same = test_look[block] @ train_look.T >= _SAME_LOOK
        moves = test_motion[block] @ train_motion.T >= _SAME_MOTION
        both_still = test_still[block, None] & train_still[None]
        pairs = torch.nonzero(same & (moves | both_still))
        found += [(int(a), start + int(b)) for b, a in pairs]
    return found


def _look_and_motion(thumbs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors of the mean picture and of the motion, and whether there is none."""
    mean = thumbs.mean(dim=1)  # [N, pixels]
    motion = (thumbs - mean[:, None]).flatten(1)
    still = motion.square().mean(dim=1).sqrt() < _STILL
    look = torch.nn.functional.normalize(mean - mean.mean(dim=1, keepdim=True), dim=1)
    return look, torch.nn.functional.normalize(motion, dim=1), still
