"""What became of the videos of an index since: lost, changed, added, with new labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastdual.loaders.index.missing import CHANGED, MISSING
from fastdual.loaders.index.table import VideoIndex

_SHOWN = 5


@dataclass(frozen=True)
class Changes:
    """What differs between an index and the data as they are now.

    Attributes:
        gone: Path and reason of the videos that are lost, changed or cannot be used any more.
        added: Paths of new ones.
        relabelled: Paths whose label, group or splits are others.
    """

    gone: tuple[tuple[str, str], ...]
    added: tuple[str, ...]
    relabelled: tuple[str, ...]

    def describe(self) -> str:
        """Return what changed, for people."""
        gone = [f"{path}: {reason}" for path, reason in self.gone]
        parts = (
            ("cannot be used any more", gone),
            ("new", self.added),
            ("with another label, group or split", self.relabelled),
        )
        return "; ".join(f"{len(of)} {what} ({_some(of)})" for what, of in parts if of)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def compare(before: VideoIndex, now: VideoIndex) -> Changes:
    """Compare an index with one of the same data that was made later."""
    numbers = {path: video for video, path in enumerate(now.paths)}
    reasons = dict(now.quarantine)
    facts_before, facts_now = _facts(before), _facts(now)
    gone, relabelled = [], []
    for video, path in enumerate(before.paths):
        number = numbers.pop(path, None)
        if number is None:
            gone.append((path, reasons.get(path, MISSING)))
        elif before.sha256[video].tobytes() != now.sha256[number].tobytes():
            gone.append((path, CHANGED))
        elif facts_before[video] != facts_now[number]:
            relabelled.append(path)
    return Changes(tuple(gone), tuple(numbers), tuple(relabelled))


def _facts(index: VideoIndex) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the label, group and splits of each video."""
    splits: list[list[str]] = [[] for _ in range(len(index))]
    for name in sorted(index.splits):
        for video in index.splits[name].tolist():
            splits[video].append(name)
    labels = [index.class_names[n] if n >= 0 else "" for n in index.labels.tolist()]
    return [(labels[v], index.groups[v], tuple(of)) for v, of in enumerate(splits)]
