"""`fastdual doctor`: sound here, and able to notice what is broken."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from fastdual import doctor, doctor_kernels, doctor_rate
from fastdual.cli import cli
from fastdual.kernels import contrastive, shuffle_rank

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


def test_decode_rate_counts_every_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands at 0 for the start and then shows 2 s: one clip of 300 frames in 2 s."""
    times = iter([0.0, 0.0, 2.0, 2.0])
    monkeypatch.setattr(doctor_rate.time, "thread_time", lambda: next(times))
    checks = doctor_rate.rate_checks(tmp_path, torch.device("cpu"))
    _, detail = checks["decode rate"]()
    assert detail == "one core decodes 150 frames/s of 340x256 H.264 with PyAV"


def test_rate_is_told_as_hours_of_an_epoch() -> None:
    text = doctor_rate.describe(20.0, "pyav")
    assert text.startswith("pyav sustains 20.0 videos/s")
    assert "3.3 hours for an epoch" in text


def test_text_names_every_check_on_a_line_of_its_own() -> None:
    check = doctor.Check("decode x", "unavailable", "not here", required=True)
    diagnosis = doctor.Diagnosis(
        {"torch": "2"}, {"CPU": "1 core"}, [check], {"decode": "pyav: why"}
    )
    assert diagnosis.to_text().splitlines() == [
        "versions",
        "  torch        2",
        "machine",
        "  CPU          1 core",
        "checks",
        "  decode x             FAILED unavailable: not here",
        "used",
        "  decode       pyav: why",
    ]
    assert diagnosis.failures == [check]
    assert not doctor.Check("x", "unavailable", "").failed
    assert doctor.Check("x", "wrong", "").failed


@pytest.mark.parametrize(
    ("module", "name", "check"),
    [
        (contrastive, "contrastive_loss", doctor_kernels.check_contrastive),
        (shuffle_rank, "shuffle_rank_loss", doctor_kernels.check_shuffle_rank),
    ],
)
@pytest.mark.parametrize("fault", ["value", "gradient", "nan"])
def test_loss_that_computes_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    check: Callable[[], tuple[str, str]],
    fault: str,
) -> None:
    right = getattr(module, name)

    def broken(x: Tensor, *arguments: Tensor, **options: float) -> Tensor:
        loss: Tensor = right(x, *arguments, **options)
        if fault == "value":
            return loss + 0.01 * loss.detach()
        drift = (x - x.detach()).sum()  # no value, only a gradient
        return loss + (torch.nan if fault == "nan" else 0.01) * drift

    assert check()[0] in ("ok", "unavailable")
    monkeypatch.setattr(module, name, broken)
    status, detail = check()
    assert status == "wrong"
    assert "differs from the reference" in detail


def test_wrong_loss_is_told_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no kernel image\nsecond line")

    monkeypatch.setattr(contrastive, "contrastive_loss", explode)
    done = run()
    assert done.exit_code == 1
    assert "FAILED wrong: RuntimeError: no kernel image\n" in done.stdout
    assert "1 checks failed: loss contrastive" in done.stderr


def test_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    check = doctor._check_video_packages()
    assert check.failed
    assert check.detail.startswith("av (")
    assert 'pip install ".[video]" in fastdual\'s checkout' in check.detail


def test_decoder_that_is_one_frame_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = doctor._test_pictures()
    monkeypatch.setattr(doctor, "_expected_clip", lambda: _clip_of(pictures[1:9]))
    pyav, dali, nvdec = doctor._check_decoders(has_gpu=False)
    assert pyav.failed
    assert dali.status == "ok"
    assert nvdec.status == "unavailable"


def _clip_of(pictures: object) -> Tensor:
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()  # type: ignore[arg-type]
    resized = torch.nn.functional.interpolate(frames, (128, 171), mode="bilinear", antialias=True)
    return resized[:, :, 8:120, 30:142].transpose(0, 1)


@pytest.mark.gpu
def test_gpu_is_fit() -> None:
    diagnosis = doctor.diagnose()
    assert not diagnosis.failures
    status = {check.name: check.status for check in diagnosis.checks}
    for name in ("loss contrastive", "loss shuffle-rank", "bf16 conv3d", "decode nvdec"):
        assert status[name] == "ok"
