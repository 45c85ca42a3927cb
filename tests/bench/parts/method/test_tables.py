"""The tables and the conclusion of bench.method, on numbers whose truth is known."""

from typing import Any

import pytest

from bench import readme
from bench.parts.method.run import OBJECTIVES, UNTRAINED
from bench.parts.method.summary import MEASURES, compare, conclude
from bench.parts.method.tables import FULL, PLAIN, tables


def _row(contestant: str, seed: int, r1: float, **changes: Any) -> dict[str, Any]:
    """A row as bench.method writes it, with the given R@1 in place of every measure."""
    steps = 320 if contestant in OBJECTIVES else 0
    settings = "data.num_workers=1 clip.frame_stride=3 loss.clip_temperature=1"
    row = {
        "data": "set",
        "contestant": contestant,
        "seed": seed,
        "train_videos": 40,
        "test_videos": 20,
        "clips_per_video": 10,
        "recipe": "tiny",
        "settings": settings,
        "budget": f"{changes.get('settings', settings)} {changes.get('steps', 320)}",
        "fingerprint": "ab" * 32,
        "steps": steps,
        "batch_size": 16,
        "device": "cpu",
        "torch": "2",
        "date": "2026-11-24",
    }
    measures = {name: r1 for name, *_ in MEASURES}
    changes = {k: v for k, v in changes.items() if k != "steps" or steps}
    return row | measures | {f"chance_{name}": 0.1 for name in measures} | changes


def _rows(full: list[float], plain: list[float], **changes: Any) -> list[dict[str, Any]]:
    values = {UNTRAINED: plain[:1], PLAIN: plain, FULL: full}
    return [
        _row(contestant, seed, value, **changes)
        for contestant, of in values.items()
        for seed, value in enumerate(of)
    ]


@pytest.mark.parametrize(
    ("full", "plain", "verdict"),
    [
        ([0.60, 0.61, 0.62], [0.50, 0.51, 0.53], "above clip (ahead in 3 of 3 seeds"),
        ([0.60, 0.61, 0.62], [0.50, 0.51, 0.53], "it is better beyond the variation"),
        ([0.50, 0.51, 0.53], [0.60, 0.61, 0.62], "it is worse beyond the variation"),
        ([0.50, 0.70, 0.60], [0.55, 0.50, 0.60], "cannot tell the two apart"),
        ([0.50], [0.40], "one seed says nothing"),
    ],
)
def test_conclusion_claims_no_more_than_the_seeds_show(
    full: list[float], plain: list[float], verdict: str
) -> None:
    (table,) = tables(_rows(full, plain))
    assert verdict in compare(table, FULL, PLAIN, "r1")


def test_other_settings_of_a_loss_stand_in_the_same_table_under_their_name() -> None:
    other = "clip.frame_stride=3.0 loss.rank_temperature=0.5 loss.clip_temperature=0.07"
    rows = _rows([0.6, 0.7], [0.5, 0.6]) + [
        _row(contestant, seed, 0.7 + 0.1 * seed, settings=other)
        for contestant in (PLAIN, UNTRAINED)
        for seed in (0, 1)
    ]
    (table,) = tables(rows)
    # The rank's temperature is nothing to plain contrast, and nothing at all is to no training.
    assert table.labels == (UNTRAINED, PLAIN, "clip, clip temperature 0.07", FULL)
    assert table.values("clip, clip temperature 0.07", "r1") == {0: 0.7, 1: pytest.approx(0.8)}
    assert table.values(UNTRAINED, "r1") == {0: 0.5, 1: pytest.approx(0.8)}  # measured once
    text = conclude(rows)
    assert "R@1: clip+rank+coherence is 10.0 points above clip (" in text
    assert "R@1: clip+rank+coherence is 10.0 points below clip, clip temperature 0.07 (" in text
    assert "(clip.frame_stride=3 loss.clip_temperature=1), 320 steps of 16 videos, 2 seeds" in text


def test_longer_training_is_another_table_named_by_what_differs() -> None:
    short = _rows([0.2, 0.3], [0.2, 0.3])
    other = [row | {"data": "b"} for row in short]
    long = _rows([0.6, 0.7], [0.5, 0.6], steps=3120)
    wide = _rows([0.4, 0.4], [0.5, 0.6], steps=3120, settings="clip.frame_stride=2")
    found = tables([*short, *other, *long, *wide])
    assert [table.name for table in found] == [
        "set, 3120 steps, clip.frame_stride=3.0",
        "set, 3120 steps, clip.frame_stride=2.0",
        "set, 320 steps",
        "b",
    ]
    # The README has a table of the longest of each set, and a sentence on each of the others.
    shown = readme.method([*short, *other, *long, *wide])
    assert shown.count("| guessing |") == 2
    assert "set, 320 steps: R@1: clip+rank+coherence is 0.0 points above clip" in shown
    assert shown.index("3120 steps of 16") < shown.index("set, 320 steps:") < shown.index("b: 40")


def test_head_that_plain_contrast_does_not_train_has_no_ratio() -> None:
    (table,) = tables(_rows([0.6, 0.7], [0.5, 0.6]))
    assert table.values(PLAIN, "segment_variance_ratio") == {}
    assert table.values(FULL, "segment_variance_ratio") == {0: 0.6, 1: 0.7}
    assert table.values(PLAIN, "variance_ratio") == {0: 0.5, 1: 0.6}
