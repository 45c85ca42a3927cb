"""The videos of a run that goes on: those it began with, whatever became of them since.

RUN/index.h5 holds what the run was started on. A video that was lost or changed since is replaced
in its batches as it would have been in the running run; one that was added is left out. On the
user's word the data are taken as they are now, in a new order.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastdual.errors import InputError
from fastdual.loaders.batch.quarantine import most_tolerated
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.index.changes import compare
from fastdual.loaders.loader import ClipLoader
from fastdual.run.folder import RunFolder


def settle_data(
    folder: RunFolder, now: VideoIndex, *, accept_changes: bool
) -> tuple[VideoIndex, str | None]:
    """Return the index that a run goes on with, and a line for people if the data changed.

    Args:
        folder: Of the run.
        now: The data as they are.
        accept_changes: Take them so.

    Raises:
        InputError: More changed than a run survives; names what, and the remedy.
    """
    before = folder.stored_index()
    if before is None or before.fingerprint == now.fingerprint:
        return now, None
    changes = compare(before, now)
    told = changes.describe() or "other contents"
    if accept_changes:
        return now, f"changed   since the run began: {told}; accepted: a new order begins here"
    if len(changes.gone) > most_tolerated(len(before)) or now.packed is not None:
        raise InputError(
            f"the data are not those that the run in {folder.path} was started on: {told}. Name "
            "the same DATA (moved files: --root), or go on with them as they are, in a new order: "
            "--accept-data-changes"
        )
    effects = [
        "others take the places of those that cannot be used" if changes.gone else "",
        "new ones and new labels are left out" if changes.added or changes.relabelled else "",
    ]
    effect = ", ".join(part for part in effects if part)
    line = f"changed   since the run began: {told}; {effect}: --accept-data-changes takes them"
    return replace(before, root=now.root), line


def rebase(state: Mapping[str, Any], loader: ClipLoader, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state as one of other data: the same share of its epoch is done.

    Args:
        state: Of the checkpoint.
        loader: Of the new data.
        data: What checkpoints say of the new data.
    """
    order, ours = state["order"], loader.state_dict()
    steps_before = max(1, int(state["data"]["num_videos"]) // int(order["batch_size"]))
    step = min(int(order["step"]) * len(loader) // steps_before, len(loader) - 1)
    epoch = int(order["epoch"])
    warnings.warn(
        f"the data changed: the run goes on in a new order, from epoch {epoch}, batch {step} of "
        f"{len(loader)}",
        stacklevel=2,
    )
    place = {**ours, "epoch": epoch, "step": step}
    return {**state, "data": data, "step": epoch * len(loader) + step, "order": place}
