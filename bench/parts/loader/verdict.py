"""What the numbers of bench.loader say, in a few sentences."""

from collections.abc import Iterator, Sequence

from bench.parts.common import Row

REFERENCE = "ours, pyav, raw"


def limit_of(rows: Sequence[Row]) -> float | None:
    """Videos a second where bare decode and bare augmentation follow each other; None: untimed."""
    rate = {row["provider"]: row["videos_per_second"] for row in rows if row.get("turns")}
    if not {"bare decode", "bare augmentation"} <= rate.keys():
        return None
    return float(1 / (1 / rate["bare decode"] + 1 / rate["bare augmentation"]))


def verdict(rows: Sequence[Row]) -> Iterator[str]:
    """Who won and by how much, losses included; ratios of medians of one run."""
    rate = {row["provider"]: row["videos_per_second"] for row in rows if row.get("turns")}
    kinds = {row["provider"]: row["kind"] for row in rows}
    theirs = sorted((name for name in rate if kinds[name] == "rival"), key=rate.__getitem__)
    for name in [name for name in rate if kinds[name] == "ours"]:
        if theirs:
            best = theirs[-1]
            ratio = rate[name] / rate[best]
            word = "faster than" if ratio >= 1 else "SLOWER than (a loss to)"
            yield (
                f"{name}: {rate[name]:.1f} videos/s, {max(ratio, 1 / ratio):.2f} times {word} "
                f"the best rival, {best} ({rate[best]:.1f})"
            )
    limit = limit_of(rows)
    if limit is not None and REFERENCE in rate:
        yield (
            f"limit: {limit:.1f} videos/s (bare decode {rate['bare decode']:.1f}, bare "
            f"augmentation {rate['bare augmentation']:.1f}); {REFERENCE} reaches "
            f"{100 * rate[REFERENCE] / limit:.0f} % of it"
        )
    costs = {row["provider"]: row["cpu_ms_per_video"] for row in rows if row.get("turns")}
    if {"bare decode", "bare augmentation", REFERENCE} <= costs.keys():
        least = costs["bare decode"] + costs["bare augmentation"]
        yield (
            f"CPU per video: {REFERENCE} {costs[REFERENCE]:.1f} ms, the limit {least:.1f} (decode "
            f"{costs['bare decode']:.1f}, augmentation {costs['bare augmentation']:.1f}): "
            f"{100 * least / costs[REFERENCE]:.0f} %"
        )
    for name in rate:
        if kinds[name] == "ours" and name != REFERENCE and REFERENCE in rate:
            yield (
                f"{name}: {rate[name] / rate[REFERENCE]:.2f} times {REFERENCE} by the clock, "
                f"{costs[REFERENCE] / costs[name]:.2f} times in CPU time"
            )
    if theirs and REFERENCE in rate:
        best = min(theirs, key=costs.__getitem__)
        yield (
            f"CPU per video: {REFERENCE} {costs[REFERENCE]:.0f} ms, the thriftiest rival, {best}, "
            f"{costs[best]:.0f} ms: {costs[best] / costs[REFERENCE]:.2f} times ours"
        )
    for row in rows:
        if row["status"] != "ok":
            yield f"{row['provider']}: {row['status']} {row.get('worst_difference', '')}".strip()
        elif row["kind"] == "control":
            yield f"{row['provider']}: NOT CAUGHT; on these videos the check of frames is weak"
