"""Keys that do not exist: what was probably meant."""

import difflib
from collections.abc import Mapping
from typing import Any

from fastdual.errors import shown

# What other programs call our keys.
_OTHER_NAMES = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "workers": "num_workers",
    "warmup": "warmup_epochs",
    "clip_grad": "max_gradient_norm",
    "grad_clip": "max_gradient_norm",
    "frames": "frames_per_clip",
    "stride": "frame_stride",
    "size": "crop_size",
    "temperature": "clip_temperature",
    "optimizer": "name",
    "amp": "precision",
    "arch": "backbone",
}


def unknown_key(given: object, hints: Mapping[str, Any]) -> str:
    """Return what to say of a key that is none of `hints`, with the one that was probably meant."""
    key, said = str(given)[:100], shown(given)
    last = key.rsplit(".", maxsplit=1)[-1]
    last = _OTHER_NAMES.get(last.lower(), last)
    close = [k for k in hints if k.split(".")[1] == last] or difflib.get_close_matches(
        key, hints, n=2, cutoff=0.75
    )
    if close:
        return f"unknown key {said}; did you mean {' or '.join(close)}?"
    sections = list(dict.fromkeys(k.split(".")[0] for k in hints))
    return (
        f"unknown key {said}; keys are written section.key, "
        f"with section one of {', '.join(sections)}"
    )
