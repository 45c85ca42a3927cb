"""Whether a training and a test split share what they must not: groups, files, pictures.

Shapes: N training videos, Q test videos, K thumbnails per video, P pixels of all K.
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
from fastdual.evaluate.passes import pictures
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.files import write
from fastdual.loaders.index import VideoIndex

# The perceptual hash of a video: small pictures from its start to its end, as real numbers.
_HASH_PICTURES, _HASH_SIDE = 8, 24
# Cosines above which two videos are one: of the mean pictures, and of what moves. Two encodings of
# one video differ less than two takes of one scene.
_SAME_LOOK, _SAME_MOTION = 0.95, 0.98
# Motion below this deviation of the normalised grey level is coding noise.
_STILL = 0.03
_BLOCK = 1024
_SHOWN = 5


Kind = Literal["same video", "same bytes", "near-identical", "same features", "same group"]


@dataclass(frozen=True)
class Overlap:
    """A training video and a test video that share something, and what they share."""

    kind: Kind
    train: str
    test: str


def settle_overlaps(
    found: Sequence[Sequence[Overlap]], *, allowed: bool, listing: Path | None = None
) -> list[list[dict[str, Any]]]:
    """Write the overlaps of some pairs of splits, then refuse them unless they are allowed.

    Args:
        found: The overlaps of each pair of splits.
        allowed: Go on in spite of overlaps.
        listing: A CSV file for all of them: kind, training video, test video; None: none.

    Returns:
        The overlaps of each pair as plain values.

    Raises:
        InputError: There are some, and they are not allowed; names the first ones.
        FailureError: The file cannot be written.
    """
    if listing is not None:
        # Splits of one data set share videos, and so overlaps: each is written once.
        _write_overlaps(listing, [*dict.fromkeys(overlap for of in found for overlap in of)])
    for overlaps in found:
        if overlaps and not allowed:
            raise InputError(_describe(overlaps, listing))
    return [[asdict(overlap) for overlap in overlaps] for overlaps in found]


def _describe(overlaps: Sequence[Overlap], listing: Path | None) -> str:
    pairs = "; ".join(f"{o.kind}: {o.train} and {o.test}" for o in overlaps[:_SHOWN])
    more = f"; and {len(overlaps) - _SHOWN} more" if len(overlaps) > _SHOWN else ""
    every = "--overlaps FILE writes every pair" if listing is None else f"all are in {listing}"
    return (
        f"the two splits overlap in {len(overlaps)} pairs, so a test would see what is known "
        f"already: {pairs}{more}. Choose other splits; {every}, --allow-overlap measures "
        "nevertheless"
    )


def _write_overlaps(path: Path, overlaps: Sequence[Overlap]) -> None:
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
    """Return what two splits of an index share: videos, groups (once each), bytes, pictures.

    Near-identical means another encoding or size of the same video; a part cut out of a longer one
    is not found.

    Args:
        index: The videos.
        train, test: Names of the two splits; None: all videos.
        decode: Decoder, or "auto".
        num_workers: Decoding processes; None: as many as suit this machine.

    Raises:
        InputError: No such split.
        FailureError: Too many videos cannot be decoded.
    """
    train_rows, test_rows = index.split(train), index.split(test)
    shared = np.intersect1d(train_rows, test_rows)
    found = [Overlap("same video", index.paths[v], index.paths[v]) for v in shared.tolist()]
    known = {(v, v) for v in shared.tolist()}
    checksums = [row.tobytes() for row in index.sha256]
    found_pairs: list[tuple[Kind, list[tuple[int, int]]]] = [
        ("same group", _same_group_pairs(index.groups, train_rows, test_rows)),
        ("same bytes", _equal_pairs(checksums, train_rows, test_rows)),
        ("near-identical", _near_pairs(index, train_rows, test_rows, decode, num_workers)),
    ]
    for kind, pairs in found_pairs:
        new = [pair for pair in pairs if pair not in known]
        found += [Overlap(kind, index.paths[a], index.paths[b]) for a, b in new]
        known.update(new)
    return found


def feature_overlaps(train: FeatureSet, test: FeatureSet) -> list[Overlap]:
    """Return what features alone can tell: shared groups (of one index), equal features."""
    groups, paths = train.groups + test.groups, train.paths + test.paths
    sides = np.arange(len(train)), np.arange(len(train), len(paths))
    pairs: list[tuple[Kind, list[tuple[int, int]]]] = []
    if train.data_fingerprint == test.data_fingerprint:
        pairs.append(("same group", _same_group_pairs(groups, *sides)))
    keys = [row.tobytes() for row in (*train.features, *test.features)]
    pairs.append(("same features", _equal_pairs(keys, *sides)))
    return [Overlap(kind, paths[a], paths[b]) for kind, of in pairs for a, b in of]


def _same_group_pairs(
    groups: Sequence[str], train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Return one pair per group that is on both sides."""
    first: dict[str, int] = {}
    for row in train_rows.tolist():
        first.setdefault(groups[row], row)
    seen: dict[str, tuple[int, int]] = {}
    for row in test_rows.tolist():
        if groups[row] and groups[row] in first:
            seen.setdefault(groups[row], (first[groups[row]], row))
    return list(seen.values())


def _equal_pairs(
    keys: Sequence[bytes], train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Return the pairs of a training and a test row with the same key."""
    known: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in train_rows.tolist():
        known[keys[row]].append(row)
    return [(a, b) for b in test_rows.tolist() for a in known.get(keys[b], ()) if a != b]


def _near_pairs(
    index: VideoIndex,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    decode: Requested,
    num_workers: int | None,
) -> list[tuple[int, int]]:
    sides = [_thumbnails(index, videos, decode, num_workers) for videos in (train, test)]
    (train_rows, train_thumbs), (test_rows, test_thumbs) = sides
    return [(train_rows[a], test_rows[b]) for a, b in near_identical(train_thumbs, test_thumbs)]


def _thumbnails(
    index: VideoIndex, videos: NDArray[np.int64], decode: Requested, num_workers: int | None
) -> tuple[list[int], Tensor]:
    """Return video numbers and grey thumbnails [N, K, P / K]."""
    rows: dict[int, Tensor] = {}
    for numbers, shown in pictures(
        index, videos, count=_HASH_PICTURES, side=_HASH_SIDE, decode=decode, num_workers=num_workers
    ):
        rows.update(zip(numbers, shown.mean(dim=2).flatten(2), strict=True))
    return list(rows), torch.stack(list(rows.values()))


def near_identical(train: Tensor, test: Tensor) -> list[tuple[int, int]]:
    """Return the rows of pairs that show the same pictures.

    The mean pictures must agree and, where something moves, the deviations from them too: videos of
    one fixed camera share the first but not the second.

    Args:
        train: [N, K, P / K] thumbnails.
        test: [Q, K, P / K] thumbnails.
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
    """Return unit vectors of the mean picture and of the motion, and whether nothing moves."""
    mean = thumbs.mean(dim=1)  # [N, pixels]
    motion = (thumbs - mean[:, None]).flatten(1)
    still = motion.square().mean(dim=1).sqrt() < _STILL
    look = torch.nn.functional.normalize(mean - mean.mean(dim=1, keepdim=True), dim=1)
    return look, torch.nn.functional.normalize(motion, dim=1), still
