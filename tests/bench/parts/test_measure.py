"""Times and memory of a function, as every benchmark takes them."""

import pytest
import torch

from bench.parts.measure import peak_memory_mib, time_interleaved

CPU = torch.device("cpu")


def test_peak_memory_counts_what_lives_at_the_same_time() -> None:
    def run() -> None:
        first = torch.ones(2**18)  # 1 MiB
        del first
        second = torch.ones(2**19)  # 2 MiB
        second + 1  # and 2 more

    assert peak_memory_mib(run, CPU) == pytest.approx(4, abs=0.1)


def test_contestants_take_turns_and_every_phase_is_timed() -> None:
    calls: list[str] = []
    timings = time_interleaved(
        {name: [lambda name=name: calls.append(name)] * 2 for name in ("a", "b")},
        device=CPU,
        warmup=1,
        min_repeats=3,
        max_repeats=3,
    )
    assert calls == ["a", "a", "b", "b"] * 4
    assert [len(phases) for phases in timings.values()] == [3, 3]
    assert timings["a"][2].median_ms > 0
