"""The figure of the README as an SVG: loading and the memory of the losses, beside what is usual.

Its colours are seen on a white and on a dark page: it has no background of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from bench.parts.results import Row, read_rows

_OURS, _THEIRS, _TEXT = "#2f81f7", "#8b949e", "#768390"
_WIDTH, _ROW, _BAR, _TOP = 440, 22, 14, 46
_LABEL = 150  # width of the names, left of the bars
_ROWS = 4096
_LOSSES = {
    "nt_xent": "NT-Xent",
    "supcon": "SupCon",
    "clip": "CLIP",
    "temporal_coherence": "temporal coherence",
}
_LOADERS = {
    "ours, pyav, pack 128 px h264": "fastdual, packed",
    "ours, pyav, raw": "fastdual, raw files",
    "JPEG frames, PIL": "JPEG frames, PIL",
    "decord": "decord",
    "torchcodec": "torchcodec",
    "PyAV": "PyAV",
}

Bars = Sequence[tuple[str, float, str, str]]
"""Name, length, what is written at its end, colour."""


def figure(results: Path) -> str:
    """Return the SVG of results/loader_mlr511_cpu.json and results/losses_cpu.json."""
    panels = [
        ("Loading, videos per second", "longer is better; 960x540 H.264, two CPU workers",
         loading(read_rows(results / "loader_mlr511_cpu.json"))),
        (f"Memory of a loss, {_ROWS:,} rows, MiB", "shorter is better; forward and backward",
         memory(read_rows(results / "losses_cpu.json"))),
    ]  # fmt: skip
    height = _TOP + _ROW * max(len(bars) for *_, bars in panels)
    drawn = "\n".join(
        f'<g transform="translate({number * _WIDTH} 0)">\n{_panel(*panel)}\n</g>'
        for number, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_TEXT}" role="img">\n'
        f"<title>{escape('; '.join(title for title, *_ in panels))}</title>\n{drawn}\n</svg>\n"
    )


def loading(rows: Sequence[Row]) -> Bars:
    """Return the bars of bench.loader, the fastest first."""
    rates = {row["contestant"]: row["videos_per_second"] for row in rows if row.get("turns")}
    shown = sorted((name for name in _LOADERS if name in rates), key=lambda name: -rates[name])
    return [
        (_LOADERS[name], rates[name], f"{rates[name]:.0f}", _colour(name.startswith("ours")))
        for name in shown
    ]


def memory(rows: Sequence[Row]) -> Bars:
    """Return the bars of bench.losses: plain torch, then ours, of each loss."""
    peaks: Mapping[tuple[str, str], float] = {
        (row["loss"], row["contestant"]): row["peak_mib"]
        for row in rows
        if (row["rows"], row["dim"], row["mode"], row["status"]) == (_ROWS, 128, "both", "ok")
    }
    bars = []
    for loss, name in _LOSSES.items():
        eager, ours = peaks[loss, "eager"], peaks[loss, "fastdual"]
        bars.append((name, eager, f"{eager:.0f} plain torch", _colour(False)))
        bars.append(("", ours, f"{ours:.0f} fastdual, 1/{eager / ours:.0f}", _colour(True)))
    return bars


def _colour(is_ours: bool) -> str:
    return _OURS if is_ours else _THEIRS


def _panel(title: str, note: str, bars: Bars) -> str:
    longest = max(length for _, length, *_ in bars)
    room = _WIDTH - _LABEL - 100  # what is written at the end of a bar
    lines = [
        f'<text x="0" y="15" font-weight="600">{escape(title)}</text>',
        f'<text x="0" y="33" font-size="11">{escape(note)}</text>',
    ]
    for number, (name, length, text, colour) in enumerate(bars):
        y = _TOP + number * _ROW
        width = max(2.0, length / longest * room)
        lines += [
            f'<text x="{_LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" '
            f'fill="{colour}"/>',
            f'<text x="{_LABEL + width + 6:.1f}" y="{y + 12}" font-size="12">{escape(text)}</text>',
        ]
    return "\n".join(lines)
