"""The demo's whole way on a few small videos: index, pretrain, embed, score, plot, table."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastdual.cli import cli
from fastdual.demo import walkthrough as demo_run


def test_the_whole_way_writes_its_results_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(demo_run, "SETTINGS", (*demo_run.SETTINGS, "--epochs", "2"))
    monkeypatch.setattr(demo_run, "FINETUNING", (*demo_run.FINETUNING, "--epochs", "2"))
    words = ["demo", str(tmp_path / "demo"), "--train-scenes", "2", "--test-scenes", "1"]
    words += ["--frames", "16", "--train"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for name in ("run/report.html", "run/checkpoints", "plots/training.png", "features.h5"):
        assert (tmp_path / "demo" / name).exists(), name

    rows = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert rows[0]["measure"] == "R@1, same class" and rows[0]["chance"] == pytest.approx(1 / 8)
    for row in rows:
        assert 0 <= row["untrained"] <= 1 and 0 <= row["pretrained"] <= 1
    # Every command is shown as it can be typed, and the table comes last.
    typed = [line for line in result.output.splitlines() if line.startswith("$ fastdual")]
    assert [line.split()[2] for line in typed] == [
        "index", "pretrain", "embed", "embed", "retrieve", "plot", "index", "finetune", "finetune",
        "report",
    ]  # fmt: skip
    table = result.output[result.output.index("held-out videos, %") :]
    assert [row["measure"] for row in rows] == [
        "R@1, same class", "R@5, same class", "R@1, same video, other clip", "rank accuracy",
        "rank accuracy, segments moved", "top-1, fine-tuned with 4 labels a class",
    ]  # fmt: skip
    for text in (
        *(row["measure"] for row in rows),
        "plots  ",
        "checkpoint  ",
        "results  ",
        "report  ",
    ):
        assert text in table, text

    again = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "demo" / "results.json").read_text()) == rows
