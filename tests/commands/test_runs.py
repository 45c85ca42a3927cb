"""`fastdual runs`: the runs of a folder as their logs tell them."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runs import arguments, invoke, write_index


def write_log(run: Path, *events: dict[str, Any], tail: str = "", age_seconds: float = 0) -> None:
    run.mkdir(parents=True)
    text = "".join(json.dumps(event) + "\n" for event in events) + tail
    (run / "log.jsonl").write_text(text)
    at = time.time() - age_seconds
    os.utime(run / "log.jsonl", (at, at))


START = {"event": "start", "step": 0, "total_steps": 40}


def reading(step: int, **metrics: float | None) -> dict[str, Any]:
    return {"event": "train", "step": step, "time": 1.0, "epoch": step / 10, **metrics}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_log(tmp_path / "a", START, reading(40, loss=1.5, clip_top1=0.25),
              {"event": "end", "step": 40, "complete": True})  # fmt: skip
    write_log(tmp_path / "group" / "b", START, reading(10, loss=3.0), reading(20, loss=None),
              {"event": "end", "step": 21, "complete": False, "signal": 15},
              age_seconds=7200)  # fmt: skip
    write_log(tmp_path / "group" / "c", START, reading(5, loss=2.0), tail='{"event": "tra')
    write_log(tmp_path / "group" / "e", START, {"event": "failed", "step": 7, "reason": "disk"})
    (tmp_path / ".hidden").mkdir()
    write_log(tmp_path / ".hidden" / "d", START)
    return tmp_path


def test_each_run_is_one_line_with_its_last_reading(runs: Path) -> None:
    result = invoke(["runs", str(runs)])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    heading = "run kind state steps last heard loss clip top1 result"
    assert lines[0] == heading.split()
    assert lines[1][:4] == ["a", "?", "complete", "40/40"]
    assert lines[1][-2:] == ["1.5", "25.0%"]
    assert lines[2] == ["group/b", "?", "stopped", "21/40", "2", "h", "ago", "-", "-"]
    assert lines[3][:4] == ["group/c", "?", "open", "5/40"]
    assert lines[3][-2:] == ["2", "-"]
    assert lines[4][:4] == ["group/e", "?", "failed", "7/40"]
    assert len(lines) == 5


def test_json_holds_every_metric(runs: Path) -> None:
    result = invoke(["runs", str(runs), "--json"])
    listed = json.loads(result.stdout)
    assert [run["run"] for run in listed] == ["a", "group/b", "group/c", "group/e"]
    assert listed[0]["metrics"] == {"epoch": 4.0, "loss": 1.5, "clip_top1": 0.25}
    assert listed[1]["metrics"]["loss"] is None
    assert listed[1]["idle_seconds"] == pytest.approx(7200, abs=60)


def test_a_real_run_is_found_by_its_own_folder_and_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_index(tmp_path, count=4)
    one = {"schedule__epochs": 1, "schedule__milestones": "[]"}
    assert invoke(arguments(index, tmp_path / "mine", **one)).exit_code == 0
    monkeypatch.chdir(tmp_path)
    for args in (["runs"], ["runs", "mine"]):
        result = invoke(args)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[1].split()[:4] == ["mine", "pretrain", "complete", "1/1"]
        assert "rank accuracy" in result.stdout.splitlines()[0]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    for folder, words in ((tmp_path, "holds no run"), (tmp_path / "absent", "no such folder")):
        result = invoke(["runs", str(folder)])
        assert result.exit_code == 2
        assert words in result.stderr


def test_what_a_crash_left_in_a_log_is_passed_over(tmp_path: Path) -> None:
    run = tmp_path / "a"
    write_log(run, START, reading(5, loss=2.0, spread=0.5))
    broken = ['{"event": "train"}', '{"event": "train", "step": "six"}', '{"event": 3, "step": 9}',
              '{"event": "train", "step": ' + "9" * 5000 + "}", "[1, 2]", "null", ""]  # fmt: skip
    odd = reading(6, loss=1.5) | {"spread": "much"}
    with open(run / "log.jsonl", "ab") as log:
        log.write("\n".join([*broken, json.dumps(odd)]).encode() + b"\n\xff\x00\x00\n")
    result = invoke(["runs", str(run)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split() == [
        "a",
        "?",
        "open",
        "6/40",
        "0",
        "s",
        "ago",
        "1.5",
    ]


def test_the_kind_and_the_newest_result_are_shown(tmp_path: Path) -> None:
    for number, (kind, config) in enumerate(
        {
            "pretrain": "[data]",
            "finetune": '[model]\nweights = "ab"\nfreeze = false',
            "linear": '[model]\nweights = "ab"\nfreeze = true',
        }.items()
    ):
        write_log(tmp_path / kind, START)
        (tmp_path / kind / "config.toml").write_text(config)
        results = tmp_path / kind / "results"
        results.mkdir()
        for age, mean in enumerate(({"R@1": 0.1 * number}, {"R@1": 0.9})):
            text = json.dumps({"task": "retrieve", "checkpoint": "ab", "mean": mean})
            (results / f"{age}.json").write_text(text)
            os.utime(results / f"{age}.json", (100 - age, 100 - age))
        baseline = {"task": "knn", "checkpoint": "random weights, seed 0", "mean": {"top1": 1.0}}
        (results / "newest.json").write_text(json.dumps(baseline))
        (results / "damaged.json").write_text("{")
    shown = invoke(["runs", str(tmp_path)]).stdout.splitlines()
    assert [line.split()[1] for line in shown[1:]] == ["finetune", "linear", "pretrain"]
    assert [line.split()[-3:] for line in shown[1:]] == [
        ["retrieve", "R@1", "10.0%"],
        ["retrieve", "R@1", "20.0%"],
        ["retrieve", "R@1", "0.0%"],
    ]
