"""What a check says, and how a check that itself breaks is told."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "wrong", "unavailable"]
Outcome = tuple[Status, str]


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    `unavailable` is a fault only where the thing is required; `wrong` always is one.
    """

    name: str
    status: Status
    detail: str
    required: bool = False

    @property
    def failed(self) -> bool:
        """Whether fastdual cannot be trusted to work here."""
        return self.status == "wrong" or (self.required and self.status != "ok")


def run_check(name: str, check: Callable[[], Outcome], *, required: bool = False) -> Check:
    """Run a check; an exception that it raises is the answer "wrong"."""
    try:
        return Check(name, *check(), required=required)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        return Check(name, "wrong", f"{type(error).__name__}: {reason}", required=required)
