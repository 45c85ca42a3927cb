"""Pieces of HTML that several parts of the page share."""

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure


def note(text: str) -> str:
    """A paragraph of plain text."""
    return f'<p class="note">{escape(text)}</p>'


def picture(figure: Figure, alternative: str) -> str:
    """A figure as a picture inside the page."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<figure><img alt="{alternative}" src="data:image/png;base64,{data}"></figure>'


def share_cell(metric: Mapping[str, Any]) -> str:
    """A cell of a table: per cent, and its interval."""
    value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
    return f'<td>{value:.1f} <span class="range">{low:.1f} to {high:.1f}</span></td>'
