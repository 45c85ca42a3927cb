"""The figure of the README shows the committed results, and the README quotes what it shows."""

from xml.etree import ElementTree

from bench.parts.readme.figure import figure, loading, memory
from bench.parts.results import RESULTS, read_rows
from tests.conftest import PROJECT


def test_every_bar_has_its_number_and_stays_inside() -> None:
    drawn = ElementTree.fromstring(figure(RESULTS))
    texts = [element.text or "" for element in drawn.iter() if element.tag.endswith("text")]
    bars = [element for element in drawn.iter() if element.tag.endswith("rect")]
    assert "fastdual, packed" in texts and "temporal coherence" in texts
    assert len(bars) == 6 + 8
    assert all(float(bar.get("x", "")) + float(bar.get("width", "")) < 440 for bar in bars)
    assert not any(element.get("style") for element in drawn.iter())


def test_the_readme_quotes_what_it_shows() -> None:
    readme = " ".join((PROJECT / "README.md").read_text().split())
    rates = {
        name: rate for name, rate, *_ in loading(read_rows(RESULTS / "loader_mlr511_cpu.json"))
    }
    raw, packed = (rates[f"fastdual, {of}"] / rates["torchcodec"] for of in ("raw files", "packed"))
    assert f"{raw:.1f} times as many videos per second as torchcodec" in readme
    assert f"and {packed:.0f} times from a pack" in readme
    peaks = [length for _, length, *_ in memory(read_rows(RESULTS / "losses_cpu.json"))]
    shares = [eager / ours for eager, ours in zip(peaks[::2], peaks[1::2], strict=True)]
    assert f"1/{min(shares):.0f} to 1/{max(shares):.0f} of the memory of plain torch" in readme
