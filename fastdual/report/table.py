"""Results as text: a few lines for one, Markdown tables for many."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastdual.errors import printable
from fastdual.evaluate.average import mean_and_deviation
from fastdual.evaluate.results import is_baseline, setting_labels
from fastdual.evaluate.retrieval import PAPER_KS

# Columns of the tables, by their names in a result: one table for each kind of number.
_KINDS: tuple[dict[str, str], ...] = (
    {"top1": "top1", "top5": "top5"},
    {f"R@{k}": f"R@{k}" for k in PAPER_KS},
    {
        "rank_accuracy": "rank accuracy",
        "shuffled_rank_accuracy": "rank, segments moved",
        "clip_top1": "other view first",
        "same_video_recall": "other clip first",
    },
)
Found = Sequence[tuple[str, Mapping[str, Any]]]
"""Results, each with its origin."""


def summary(result: Mapping[str, Any]) -> str:
    """Return one line per pair of splits and, for several, their mean."""
    lines = []
    for split in result["splits"]:
        cells = [
            f"{name} {100 * metric['value']:.1f} % "
            f"({100 * metric['low']:.1f} to {100 * metric['high']:.1f})"
            for name, metric in split["metrics"].items()
        ]
        random = ", random weights" if is_baseline(result) else ""
        lines.append(
            f"{result['task']}{random}  {', '.join(cells)}; {split['num_train']} training videos "
            f"({split['train']}), {split['num_test']} test videos ({split['test']})"
        )
    lines += remarks(result["task"], result["splits"])
    first = result["splits"][0]
    if "commonest_class" in first:
        guess = 100 * first["commonest_class"]
        lines.append(f"always guessing the commonest class gives {guess:.1f} %")
    return "\n".join(map(printable, lines))


def remarks(task: str, splits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the mean of several splits, and warnings about their videos."""
    lines = []
    if len(splits) > 1:
        cells = (
            f"{name} {_mean_cell(found)} %" for name, found in mean_and_deviation(splits).items()
        )
        lines.append(f"{task}  mean of {len(splits)} splits ± deviation  {', '.join(cells)}")
    for split in splits:
        if seen := split.get("pretrained_on", 0):
            lines.append(
                f"warning: the network was pretrained on {seen} of the {split['num_test']} test "
                f"videos ({split['test']}), without labels; a set that it has not seen says more"
            )
        if split["overlaps"]:
            lines.append(
                f"warning: {len(split['overlaps'])} overlaps of {split['train']} and "
                f"{split['test']} allowed"
            )
        if missing := split["left_out"]["test"]:
            lines.append(
                f"warning: {len(missing)} videos left out of {split['test']}, first "
                f"{missing[0]['path']} ({missing[0]['reason']})"
            )
    return [printable(line) for line in lines]


def by_kind(results: Found) -> list[tuple[dict[str, str], Found]]:
    """Return the results of each table, and its columns: title by metric."""
    found: list[tuple[dict[str, str], Found]] = []
    for titles in _KINDS:
        own = [(origin, result) for origin, result in results if titles.keys() & result["mean"]]
        present = {name for _, result in own for name in result["mean"]}
        if own:
            found.append(({name: titles[name] for name in titles if name in present}, own))
    return found


def markdown_table(results: Found, *, with_mean: bool = False) -> str:
    """Return Markdown tables, one per kind of number, with a row per pair of splits and mean.

    Cells are percentages; brackets hold the 95 % interval, where there is one, and a mean comes
    with the standard deviation between the splits.

    Args:
        results: Each with its origin.
        with_mean: Add a row for the mean over the splits of all; they are of one method.
    """
    tables = []
    for columns, own in by_kind(results):
        header = ["run", "weights", "task", "backbone", "test split", "videos", *columns.values()]
        rows = [header, ["---"] * len(header)]
        for origin, result in own:
            rows += _rows(origin, result, [*columns])
        if with_mean:
            splits = [split for _, result in own for split in result["splits"]]
            rows.append(_mean_row("all", own[0][1], splits, [*columns]))
        tables.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(tables)


def _rows(origin: str, result: Mapping[str, Any], columns: Sequence[str]) -> list[list[str]]:
    rows = []
    for split in result["splits"]:
        cells = [_cell(split["metrics"].get(name)) for name in columns]
        where = [_escape(split_label(split)), str(split["num_test"])]
        rows.append([*_start(origin, result), *where, *cells])
    if len(rows) > 1:
        rows.append(_mean_row(origin, result, result["splits"], columns))
    return rows


def _mean_row(
    origin: str,
    result: Mapping[str, Any],
    splits: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
) -> list[str]:
    means = mean_and_deviation(splits)
    cells = [_mean_cell(means[name]) if name in means else "" for name in columns]
    count = str(sum(split["num_test"] for split in splits))
    return [*_start(origin, result), f"mean of {len(splits)}", count, *cells]


def _start(origin: str, result: Mapping[str, Any]) -> list[str]:
    backbone = str(result["settings"].get("backbone", ""))
    return [_escape(origin), weights_label(result), task_label(result), _escape(backbone)]


def weights_label(result: Mapping[str, Any]) -> str:
    """Return which weights were measured, in a few letters."""
    return "random" if is_baseline(result) else str(result["checkpoint"])[:8]


def split_label(split: Mapping[str, Any]) -> str:
    """Return the name of the test split, marked where it was not held out altogether."""
    seen = split.get("pretrained_on", 0)
    marks = ["overlaps with train"] * bool(split["overlaps"])
    marks += [f"{seen} of {split['num_test']} pretrained on"] * bool(seen)
    return str(split["test"]) + (f" ({', '.join(marks)})" if marks else "")


def task_label(result: Mapping[str, Any]) -> str:
    """Return the task and the settings that a user chooses between."""
    return ", ".join([str(result["task"]), *setting_labels(result)])


def _mean_cell(found: tuple[float, float]) -> str:
    mean, deviation = found
    return f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ""
    value, low, high = (100 * metric[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
