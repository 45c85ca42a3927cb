"""The sentences of bench.loader."""

from bench.parts.loader.verdict import REFERENCE, verdict


def test_the_verdict_names_losses_and_what_is_missing() -> None:
    def row(contestant: str, kind: str, rate: float) -> dict[str, object]:
        figures = {"videos_per_second": rate, "cpu_ms_per_video": 1000 / rate, "turns": 1}
        return {"contestant": contestant, "kind": kind, "status": "ok", **figures}

    rows = [
        row(REFERENCE, "ours", 10.0),
        row("a", "theirs", 20.0),
        row("bare decode", "limit", 20.0),
        row("bare augmentation", "limit", 60.0),
        {"contestant": "b", "kind": "theirs", "status": "missing: b is not installed"},
        {
            "contestant": "one frame late",
            "kind": "control",
            "status": "ok",
            "worst_difference": "1",
        },
    ]
    text = "\n".join(verdict(rows))
    assert "2.00 times SLOWER than (a loss to) the best other contestant, a" in text
    assert "limit: 15.0 videos/s" in text and "reaches 67 % of it" in text
    assert "b: missing" in text
    assert "NOT CAUGHT" in text
