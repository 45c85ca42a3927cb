"""The model of a run at scale: its arithmetic, and that the page shows what it gives."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from bench.parts.markdown import between_marks
from bench.scale import (
    MARKS,
    Assumptions,
    Network,
    assumption_docs,
    main,
    plan,
    report,
)
from fastdual.config.sections import PretrainConfig
from tests.conftest import PROJECT

PAGE = PROJECT / "docs" / "scale.md"


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.of(PretrainConfig())


def test_the_page_is_current() -> None:
    text = PAGE.read_text()
    assert text == between_marks(text, MARKS, report(Assumptions())), (
        "run: python -m bench.scale --write docs/scale.md"
    )


def test_every_assumption_is_named_and_an_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [field.name for field in fields(Assumptions)]
    assert list(assumption_docs()) == names
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    main(["--videos", "1000", "--write", str(page)])
    shown = capsys.readouterr().out
    for name in names:
        assert f"`--{name.replace('_', '-')}`" in shown
    assert "| 1,000 | `--videos` |" in shown
    assert page.read_text().startswith("before\n") and page.read_text().endswith("after\n")
    assert shown.strip() in page.read_text()


def test_numbers_are_those_of_the_network(network: Network) -> None:
    assert network.gflop_per_clip == pytest.approx(3 * 42.72, rel=1e-3)
    heads = 512 * 512 * 2 + 512 * 2 + 512 * 128 + 128 + 512 * 128 + 128
    assert network.weights == 14_365_303 + heads
    # bf16 clips of 56x56: the first of the large layers alone.
    assert network.activation_bytes_per_clip > 2 * 83 * 16 * 56 * 56


def test_a_step_is_its_parts(network: Network) -> None:
    given = Assumptions(decoded_frames_per_second=1e12)
    one, eight = (plan(network, given, world, None) for world in (1, 8))
    assert one["step_ms"] == pytest.approx(
        4 * 64 * network.gflop_per_clip / (0.35 * 989e3) * 1e3, rel=1e-9
    )
    assert one["network_ms"] == 0
    assert one["efficiency"] == 1
    assert eight["ring_megabytes"] == pytest.approx(2 * 7 / 8 * 4 * network.weights / 1e6)
    assert eight["gather_megabytes"] == pytest.approx(2 * 7 * 64 * 384 * 4 / 1e6)
    assert eight["step_ms"] == pytest.approx(eight["compute_ms"] + eight["network_ms"])
    assert eight["hours"] == pytest.approx(eight["steps"] * eight["step_ms"] / 3.6e6)
    assert plan(network, given, 8, 1000.0)["compute_ms"] == pytest.approx(256.0)
    slow = plan(network, replace(given, decoded_frames_per_second=1000.0), 8, None)
    assert slow["limit"] == "decoding"
    assert slow["step_ms"] == pytest.approx(1e3 * 64 * 32 * 1.5 / 1000)
