"""Metrics that stay on the device until they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MetricSummary:
    """Metrics of several steps, read back to the host.

    Attributes:
        means: Mean over the steps, by name.
        bad_step: Place of the first step where one of the watched metrics was not finite, or None.
        bad_metric: Which metric that was.
    """

    means: Mapping[str, float]
    bad_step: int | None = None
    bad_metric: str | None = None


class MetricWindow:
    """Collects 0-d tensors step by step; one copy to the host reads them all.

    Args:
        watched: Names of the metrics that must stay finite.
    """

    def __init__(self, watched: Sequence[str]) -> None:
        self._watched = tuple(watched)
        self._names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Note the metrics of one step, without waiting for the device."""
        self._names = tuple(metrics)
        self._rows.append(torch.stack([value.detach().float() for value in metrics.values()]))

    def read(self) -> MetricSummary:
        """Wait for the device, summarise the steps noted since the last reading and forget them."""
        table = torch.stack(self._rows).cpu().double()  # [steps, metrics]
        self._rows = []
        means = dict(zip(self._names, table.mean(dim=0).tolist(), strict=True))
        columns = [self._names.index(name) for name in self._watched]
        bad = torch.nonzero(~torch.isfinite(table[:, columns]))  # [bad entries, 2], by step first
        if not len(bad):
            return MetricSummary(means)
        step, column = bad[0].tolist()
        return MetricSummary(means, bad_step=step, bad_metric=self._watched[column])
