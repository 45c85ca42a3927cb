"""What the rows of bench.loader say, in a few sentences."""

from collections.abc import Iterator, Sequence

from bench.parts.results import Row

REFERENCE = "ours, pyav, raw"
_LIMITS = ("bare decode", "bare augmentation")


def limit_of(rows: Sequence[Row]) -> float | None:
    """Return the videos per second of bare decode, then bare augmentation; None if untimed."""
    rate = _timed(rows, "videos_per_second")
    if not rate.keys() >= {*_LIMITS}:
        return None
    return float(1 / sum(1 / rate[name] for name in _LIMITS))


def _timed(rows: Sequence[Row], figure: str) -> dict[str, float]:
    return {row["contestant"]: row[figure] for row in rows if row.get("turns")}


def verdict(rows: Sequence[Row]) -> Iterator[str]:
    """Yield sentences on who won and by how much, losses included, and on who was not timed.

    Args:
        rows: One row per contestant, of one run; ratios are those of medians.
    """
    rate, cost = _timed(rows, "videos_per_second"), _timed(rows, "cpu_ms_per_video")
    kinds = {row["contestant"]: row["kind"] for row in rows}
    ours, theirs = ([name for name in rate if kinds[name] == kind] for kind in ("ours", "theirs"))
    if theirs:
        yield from _against_the_best(ours, max(theirs, key=rate.__getitem__), rate)
    if REFERENCE in rate:
        yield from _against_the_limit(limit_of(rows), rate, cost)
        for name in ours:
            if name != REFERENCE:
                yield (
                    f"{name}: {rate[name] / rate[REFERENCE]:.2f} times {REFERENCE} by the clock, "
                    f"{cost[REFERENCE] / cost[name]:.2f} times in CPU time"
                )
        if theirs:
            best = min(theirs, key=cost.__getitem__)
            yield (
                f"CPU per video: {REFERENCE} {cost[REFERENCE]:.0f} ms, the thriftiest other "
                f"contestant, {best}, {cost[best]:.0f} ms: {cost[best] / cost[REFERENCE]:.2f} "
                "times ours"
            )
    idle = _timed([row for row in rows if "idle_share" in row], "idle_share")
    if idle:
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in idle.items())
        yield f"workers waited for a video: {shares}"
    for row in rows:
        name = row["contestant"]
        if row["status"] != "ok":
            yield f"{name}: {row['status']} {row.get('worst_difference', '')}".strip()
        elif row["kind"] == "control":
            yield f"{name}: NOT CAUGHT; on these videos the check of frames is weak"


def _against_the_best(ours: Sequence[str], best: str, rate: dict[str, float]) -> Iterator[str]:
    for name in ours:
        ratio = rate[name] / rate[best]
        word = "faster than" if ratio >= 1 else "SLOWER than (a loss to)"
        yield (
            f"{name}: {rate[name]:.1f} videos/s, {max(ratio, 1 / ratio):.2f} times {word} "
            f"the best other contestant, {best} ({rate[best]:.1f})"
        )


def _against_the_limit(
    limit: float | None, rate: dict[str, float], cost: dict[str, float]
) -> Iterator[str]:
    if limit is None:
        return
    decode, augmentation = _LIMITS
    yield (
        f"limit: {limit:.1f} videos/s ({decode} {rate[decode]:.1f}, "
        f"{augmentation} {rate[augmentation]:.1f}); "
        f"{REFERENCE} reaches {100 * rate[REFERENCE] / limit:.0f} % of it"
    )
    least = cost[decode] + cost[augmentation]
    yield (
        f"CPU per video: {REFERENCE} {cost[REFERENCE]:.1f} ms, the limit {least:.1f} (decode "
        f"{cost[decode]:.1f}, augmentation {cost[augmentation]:.1f}): "
        f"{100 * least / cost[REFERENCE]:.0f} %"
    )
