"""The options of commands that measure on a test split, and what they mean where there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fastdual.console import say

_OPTIONS = (
    click.option(
        "--test-share",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.2,
        show_default=True,
        help="Share of each class that is held out as test where the data have no splits.",
    ),
    click.option(
        "--split-seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Decides which videos are held out.",
    ),
)


def hold_out_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that measures on a test split."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class HoldOutRequest:
    """The values of `hold_out_options`, under their names there."""

    test_share: float
    split_seed: int

    def how(self) -> Any:
        """Return the HoldOut."""
        from fastdual.evaluate.hold_out import HoldOut

        return HoldOut(self.test_share, self.split_seed)

    def splits_of(self, index: Any, train: str | None, test: str | None, *, kept_in: Path) -> Any:
        """Return the index with both splits, their names, and how they were made if they were.

        Says which videos were held out, and keeps their list with the results.

        Args:
            index: The videos.
            train, test: Names that were asked for.
            kept_in: The run or file whose results the list belongs to.
        """
        from fastdual.evaluate.hold_out import choose_splits

        index, names, held = choose_splits(index, train, test, self.how())
        announce(held, kept_in)
        return index, names, held


def announce(held: Any, kept_in: Path) -> None:
    """Say which videos were held out, if any were, and keep their list with the results."""
    from fastdual.evaluate.results import results_folder

    if held is not None:
        folder = results_folder(kept_in)
        held.save(folder)
        say(held.describe(folder), err=True)
