"""Who decoded what a loader has shown."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class DecodedBy:
    """Counts of videos, each as often as it was shown.

    Attributes:
        decoders: Videos by decoder: nvdec, dali-cpu or pyav.
        substituted: Videos that PyAV decoded in place of the decoder that was chosen, by reason.
    """

    decoders: Counter[str] = field(default_factory=Counter)
    substituted: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """Return the sum of what `to_dict` returned, read from a log."""
        total = cls()
        for record in records:
            for name, counts in (
                ("decoders", total.decoders),
                ("substituted", total.substituted),
            ):
                known = record.get(name)
                if isinstance(known, dict):
                    counts.update({k: n for k, n in known.items() if type(n) is int})
        return total

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Count rows: (decoder, reason, "" for the decoder that was chosen)."""
        for decoder, reason in rows:
            self.decoders[decoder] += 1
            if reason:
                self.substituted[reason] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"decoders": dict(self.decoders), "substituted": dict(self.substituted)}

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count:,}" for name, count in self.decoders.most_common())
        reasons = "; ".join(f"{why} ({n:,})" for why, n in self.substituted.most_common(3))
        return (counts or "nothing yet") + (f"; in place of another: {reasons}" if reasons else "")
