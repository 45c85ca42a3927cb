"""`fastdual doctor` as it is typed: sound here, and exit code 1 where something is broken."""

import json
import re

import pytest
import torch
from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.kernels.contrastive import loss as contrastive

Tensor = torch.Tensor


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments])


def test_this_machine_is_fit_and_everything_is_told() -> None:
    done = run("--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert {"fastdual", "python", "torch", "triton", "DALI", "av", "h5py"} <= told[
        "versions"
    ].keys()
    status = {check["name"]: check["status"] for check in told["checks"]}
    assert status["decode pyav"] == status["decode dali-cpu"] == "ok"
    assert {"loss contrastive", "loss shuffle-rank", "NVDEC library", "CUDA"} <= status.keys()
    assert told["used"].keys() == {"compute", "decode", "losses"}
    for check in told["checks"]:
        assert check["detail"], check
    details = {check["name"]: check["detail"] for check in told["checks"]}
    assert status["loading"] == status["decode rate"] == "ok"
    assert "videos/s" in details["loading"] and "Kinetics-400" in details["loading"]
    assert re.match(r"one core decodes [\d,]+ frames/s of 340x256", details["decode rate"])


def test_wrong_loss_is_told_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no kernel image\nsecond line")

    monkeypatch.setattr(contrastive, "contrastive_loss", explode)
    done = run()
    assert done.exit_code == 1
    assert "FAILED wrong: RuntimeError: no kernel image\n" in done.stdout
    assert "1 checks failed: loss contrastive" in done.stderr
