"""Results as text: a few lines for one, a Markdown table for many."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastdual.evaluate.results import is_baseline

METRICS = ("top1", "top5", "R@1", "R@5", "R@10", "R@20", "R@50")


def summary(result: Mapping[str, Any]) -> str:
    """One line for each pair of splits and, for several, their mean."""
    lines = []
    for split in result["splits"]:
        cells = [
            f"{name} {100 * metric['value']:.1f} % "
            f"({100 * metric['low']:.1f} to {100 * metric['high']:.1f})"
            for name, metric in split["metrics"].items()
        ]
        lines.append(
            f"{result['task']}  {', '.join(cells)}; {split['num_train']} training videos "
            f"({split['train']}), {split['num_test']} test videos ({split['test']})"
        )
        if split["overlaps"]:
            lines.append(f"warning: {len(split['overlaps'])} overlaps of train and test allowed")
    if len(result["splits"]) > 1:
        cells = [f"{name} {100 * value:.1f} %" for name, value in result["mean"].items()]
        lines.append(f"mean of {len(result['splits'])} splits  {', '.join(cells)}")
    first = result["splits"][0]
    if "commonest_class" in first:
        guess = 100 * first["commonest_class"]
        lines.append(f"always guessing the commonest class gives {guess:.1f} %")
    return "\n".join(lines)


def markdown_table(results: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A Markdown table of (source, result), one row for each pair of splits and each mean.

    Cells are per cent; brackets hold the 95 % interval, where there is one.
    """
    present = {name for _, result in results for name in result["mean"]}
    columns = [name for name in METRICS if name in present]
    header = ["run", "weights", "task", "backbone", "test split", "videos", *columns]
    rows = [header, ["---"] * len(header)]
    for source, result in results:
        rows += _rows(source, result, columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _rows(source: str, result: Mapping[str, Any], columns: Sequence[str]) -> list[list[str]]:
    weights = "random" if is_baseline(result) else str(result["checkpoint"])[:8]
    backbone = str(result["settings"].get("backbone", ""))
    start = [_escape(source), weights, result["task"], _escape(backbone)]
    rows = []
    for split in result["splits"]:
        mark = " (overlaps with train)" if split["overlaps"] else ""
        cells = [_cell(split["metrics"].get(name)) for name in columns]
        rows.append([*start, _escape(split["test"]) + mark, str(split["num_test"]), *cells])
    if len(rows) > 1:
        means = [f"{100 * result['mean'][n]:.1f}" if n in result["mean"] else "" for n in columns]
        count = str(sum(split["num_test"] for split in result["splits"]))
        rows.append([*start, f"mean of {len(result['splits'])}", count, *means])
    return rows


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ""
    value, low, high = (100 * metric[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
