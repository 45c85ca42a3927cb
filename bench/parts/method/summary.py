"""What the log of bench.method says: a table per data set, sentences, and one figure."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.parts.markdown import markdown_table
from bench.parts.method import contestants as c
from bench.parts.method.intervals import Answers, Interval, answers_of, difference, interval
from bench.parts.method.journal import Row

MEASURES = {
    "finetuned_100": "fine-tuned, all labels",
    "finetuned_30": "30 % of the labels",
    "finetuned_10": "10 %",
    "probe": "linear probe",
    "r1": "R@1",
    "r5": "R@5",
    "moved_rank": "moved segments ranked right",
}
_JUDGED = ((c.FULL, c.SCRATCH), (c.FULL, c.CLIP), (c.FULL, c.LONG))
# What a baseline scores without any training is set against fine-tuning with all labels.
_BASELINE_MEASURE = "probe"


def sets_of(rows: Sequence[Row]) -> list[str]:
    """Return the data sets of the comparison, in order of appearance."""
    return list(dict.fromkeys(row["data"] for row in rows if not row["search"]))


def rows_of(rows: Sequence[Row], data: str, contestant: str) -> list[Row]:
    """Return the rows of a contestant on a set: those of its latest settings."""
    mine = [
        row
        for row in rows
        if (row["data"], row["contestant"]) == (data, contestant) and not row["search"]
    ]
    return [row for row in mine if row["changed"] == mine[-1]["changed"]]


def _answers(rows: Sequence[Row], data: str, contestant: str, measure: str) -> Answers:
    return answers_of(rows_of(rows, data, contestant), measure)


def table(rows: Sequence[Row], data: str, measures: Sequence[str] = tuple(MEASURES)) -> str:
    """Return the table of a data set; baselines, which train nothing, stand below."""
    body = []
    for name in (*c.CONTESTANTS, *c.BASELINES):
        found = [interval(_answers(rows, data, name, measure)) for measure in measures]
        if any(found):
            body.append([name, *("-" if one is None else one.text() for one in found)])
    return markdown_table(["", *(MEASURES[measure] for measure in measures)], body)


def describe(rows: Sequence[Row], data: str) -> str:
    """Return a sentence, without full stop, on what a table was measured."""
    found = [rows_of(rows, data, name) for name in c.PRETRAINED]
    every = [row for row in rows if row["data"] == data]
    one = next((some for some in found if some), every)
    groups = {group for row in one for group in row["groups"]}
    seeds, folds = len({row["seed"] for row in one}), len({row["fold"] for row in one})
    videos = sum(len(row["group_of"]) for row in one if row["seed"] == one[0]["seed"])
    return (
        f"{data}: {one[0]['classes']} classes, {videos} test videos of {len(groups)} groups that "
        f"were not trained on, {_count(folds, 'fold')}, {_count(seeds, 'seed')}; per cent, with "
        "95 % intervals over seeds, groups and videos"
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def verdicts(rows: Sequence[Row], data: str) -> list[str]:
    """Return sentences: full objective against the others, fine-tuned with all labels."""
    lines = []
    for ours, theirs in _JUDGED:
        pair = [_answers(rows, data, name, "finetuned_100") for name in (ours, theirs)]
        lines.append(_sentence(difference(*pair), ours, theirs))
    mine = _answers(rows, data, c.FULL, "finetuned_100")
    for name in c.BASELINES:
        theirs = _answers(rows, data, name, _BASELINE_MEASURE)
        lines.append(_sentence(difference(mine, theirs), c.FULL, f"{name} (linear probe)"))
    return [line for line in lines if line]


def _sentence(found: Interval | None, ours: str, theirs: str) -> str:
    if found is None:
        return ""
    side = "above" if found.mean >= 0 else "below"
    clear = found.low > 0 or found.high < 0
    verdict = "clear of 0" if clear else "these cells cannot tell the two apart"
    seeds = "" if found.seeds > 1 else "; one seed says nothing of the variation between seeds"
    return (
        f"{ours} is {abs(found.mean):.1f} points {side} {theirs} (95 % interval {found.low:+.1f} "
        f"to {found.high:+.1f}; {_count(found.seeds, 'seed')}, {_count(found.groups, 'group')}): "
        f"{verdict}{seeds}."
    )


def conclude(rows: Sequence[Row], measures: Sequence[str] = tuple(MEASURES)) -> str:
    """Return every table with its sentences, as Markdown."""
    parts = []
    for data in sets_of(rows):
        parts += [f"{describe(rows, data)}.", table(rows, data, measures)]
        parts.append("\n".join(f"- {line}" for line in verdicts(rows, data)))
    return "\n\n".join(part for part in parts if part)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a panel per data set: fine-tuned accuracy by the share of the labels, with intervals."""
    sets = sets_of(rows)
    figure = Figure(figsize=(4.2 * len(sets), 3.6), layout="constrained")
    for ax, data in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        _draw_panel(ax, rows, data)
    figure.savefig(path, dpi=110)


def _draw_panel(ax: Axes, rows: Sequence[Row], data: str) -> None:
    percents = sorted(c.FINETUNE_STEPS)
    for number, name in enumerate(c.CONTESTANTS):
        found = [interval(_answers(rows, data, name, f"finetuned_{p}")) for p in percents]
        shown = [(place, one) for place, one in enumerate(found) if one is not None]
        if shown:
            places = [place + 0.05 * (number - len(c.CONTESTANTS) / 2) for place, _ in shown]
            means = [one.mean for _, one in shown]
            errors = [
                [max(0.0, one.mean - one.low) for _, one in shown],
                [max(0.0, one.high - one.mean) for _, one in shown],
            ]
            style = {"color": f"C{number}", "marker": "o", "capsize": 2}
            ax.errorbar(places, means, errors, label=name, **style)
    for name, style in zip(c.BASELINES, (":", "--"), strict=True):
        baseline = interval(_answers(rows, data, name, _BASELINE_MEASURE))
        if baseline is not None:
            ax.axhline(baseline.mean, color="0.4", linestyle=style, linewidth=1, label=name)
    ax.set_xticks(range(len(percents)), [f"{percent} %" for percent in percents])
    ax.set(title=data, xlabel="labels of the training videos", ylabel="top-1, per cent")
    ax.set_ylim(0, None)
    ax.legend(fontsize=6)
