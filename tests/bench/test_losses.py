"""The benchmark of the losses measures what it says, on baselines that are right."""

import csv
import json
from pathlib import Path

import pytest
import torch

from bench import losses
from bench.losses import MODES, Contestant, largest_error, measure
from bench.parts.common import describe_machine, peak_memory_mib, time_interleaved, write_rows
from bench.parts.losses.cases import CASES
from tests.kernels.launches import TorchLaunches

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", CASES)
def test_baseline_and_ours_are_the_reference(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    inputs = case.make_inputs(24, 16, torch.float64, CPU)
    truth = Contestant(case.truth, inputs).both()
    assert largest_error(Contestant(case.baseline, inputs).both(), truth) < 1e-6
    assert largest_error(Contestant(case.ours, inputs).both(), truth) < 1e-12


def test_a_wrong_provider_shows_a_large_error() -> None:
    case = CASES["nt_xent"]
    inputs = case.make_inputs(24, 16, torch.float64, CPU)
    truth = Contestant(case.truth, inputs).both()
    wrong = Contestant(lambda first, second: 1.01 * case.truth(first, second), inputs).both()
    assert largest_error(wrong, truth) == pytest.approx(0.01, rel=1e-6)


def test_launches_are_told_of_every_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU nothing is launched: torch's operations are counted in their place."""

    def count(run, device: torch.device) -> int:
        with TorchLaunches() as launches:
            run()
        return len(launches.names)

    monkeypatch.setattr(losses, "count_launches", count)
    monkeypatch.setattr(losses, "providers", lambda case: [("eager", lambda: case.baseline)])
    rows = list(measure(CASES["nt_xent"], 24, 16, torch.float32, CPU))
    launches = {row["mode"]: row["launches"] for row in rows}
    assert list(launches) == list(MODES) and min(launches.values()) > 5
    # The upstream gradient is not made anew: no phase has a launch that the other has not.
    assert launches["both"] == launches["forward"] + launches["backward"]


def test_backward_launches_nothing_for_its_upstream_gradient() -> None:
    case = CASES["nt_xent"]
    contestant = Contestant(case.baseline, case.make_inputs(24, 16, torch.float32, CPU))
    contestant.both()
    contestant.forward()
    with TorchLaunches() as launches:
        contestant.backward()
    assert "aten::ones_like" not in launches.names


@pytest.mark.gpu
def test_launches_on_a_gpu() -> None:
    """NT-Xent: the views put together, forward and merge; one launch for the gradients."""
    rows = measure(CASES["nt_xent"], 128, 128, torch.bfloat16, torch.device("cuda"))
    ours = {row["mode"]: row["launches"] for row in rows if row["provider"] == "fastdual"}
    assert ours == {"forward": 3, "backward": 1, "both": 4}


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


def test_rows_are_written_with_all_columns(tmp_path: Path) -> None:
    rows = [{"loss": "clip", "status": "out of memory"}, {"loss": "clip", "median_ms": 1.5}]
    write_rows(rows, tmp_path / "new" / "losses")
    with (tmp_path / "new" / "losses.csv").open() as file:
        assert [*csv.DictReader(file)] == [
            {"loss": "clip", "status": "out of memory", "median_ms": ""},
            {"loss": "clip", "status": "", "median_ms": "1.5"},
        ]
    assert json.loads((tmp_path / "new" / "losses.json").read_text()) == rows


def test_machine_is_described() -> None:
    machine = describe_machine(CPU)
    assert machine["device"] and machine["torch"] == torch.__version__ and machine["date"]
