"""What a run logged, as arrays to draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.run.summary import LOG_NAME, read_events

_MAX_LOG_BYTES = 1 << 30


@dataclass(frozen=True)
class RunCurves:
    """Readings of a run's training.

    Attributes:
        name: What the run is called in a picture.
        epochs: [M] rising.
        values: [M] by metric; nan where a reading lacks it or was not finite.
    """

    name: str
    epochs: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return a short name per path: its last part, and as many before it as tell all apart."""
    parts = [
        (*path.resolve().parts[1:-1], path.resolve().name.removesuffix(".h5")) for path in paths
    ]
    names: list[str] = []
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["-".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def read_curves(run: Path, name: str) -> RunCurves:
    """Read `log.jsonl` of a run folder; lines that a kill or a crash has broken are skipped.

    Raises:
        InputError: No log there, or one without a single reading.
    """
    path = run / LOG_NAME
    if not path.is_file():
        raise InputError(f"{run}: no run folder, it holds no {LOG_NAME}; give the folder of --run")
    if path.stat().st_size > _MAX_LOG_BYTES:
        raise InputError(f"{path}: larger than {_MAX_LOG_BYTES} bytes, so no log of a run")
    trained = [event for event in read_events(path) if event["event"] == "train"]
    readings = [event for event in trained if math.isfinite(_number(event.get("epoch")))]
    if not readings:
        raise InputError(f"{path}: no reading of the training yet; wait for the first one")
    names = dict.fromkeys(key for reading in readings for key in reading if key != "event")
    values = {name: np.array([_number(r.get(name)) for r in readings]) for name in names}
    return RunCurves(name, values.pop("epoch"), values)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
