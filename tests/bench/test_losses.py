"""The benchmark of the losses measures what it says, on contestants that are right."""

import pytest
import torch

from bench import losses
from bench.losses import MODES, Contestant, largest_error, measure
from bench.parts.losses.cases import CASES
from tests.kernels.launches import TorchLaunches

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", CASES)
def test_eager_and_ours_are_the_reference(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    inputs = case.make_inputs(24, 16, torch.float64, CPU)
    truth = Contestant(case.truth, inputs).both()
    assert largest_error(Contestant(case.eager, inputs).both(), truth) < 1e-6
    assert largest_error(Contestant(case.ours, inputs).both(), truth) < 1e-12


def test_a_wrong_contestant_shows_a_large_error() -> None:
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
    monkeypatch.setattr(losses, "contestants_of", lambda case: [("eager", lambda: case.eager)])
    rows = list(measure(CASES["nt_xent"], 24, 16, torch.float32, CPU))
    launches = {row["mode"]: row["launches"] for row in rows}
    assert list(launches) == list(MODES) and min(launches.values()) > 5
    # The upstream gradient is not made anew: no phase has a launch that the other has not.
    assert launches["both"] == launches["forward"] + launches["backward"]


def test_backward_launches_nothing_for_its_upstream_gradient() -> None:
    case = CASES["nt_xent"]
    contestant = Contestant(case.eager, case.make_inputs(24, 16, torch.float32, CPU))
    contestant.both()
    contestant.forward()
    with TorchLaunches() as launches:
        contestant.backward()
    assert "aten::ones_like" not in launches.names


@pytest.mark.gpu
def test_launches_on_a_gpu() -> None:
    """NT-Xent: the views put together, forward and merge; one launch for the gradients."""
    rows = measure(CASES["nt_xent"], 128, 128, torch.bfloat16, torch.device("cuda"))
    ours = {row["mode"]: row["launches"] for row in rows if row["contestant"] == "fastdual"}
    assert ours == {"forward": 3, "backward": 1, "both": 4}
