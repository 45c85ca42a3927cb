"""The diagnosis as text, and what is missing."""

import sys

import pytest

from fastdual.doctor.check import Check
from fastdual.doctor.machine import Diagnosis, check_dali, check_video_packages, diagnose


def test_text_names_every_check_on_a_line_of_its_own() -> None:
    check = Check("decode x", "unavailable", "not here", required=True)
    diagnosis = Diagnosis({"torch": "2"}, {"CPU": "1 core"}, [check], {"decode": "pyav: why"})
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


def test_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    check = check_video_packages()
    assert check.failed
    assert check.detail.startswith("av (")
    assert 'pip install ".[video]" in fastdual\'s checkout' in check.detail


@pytest.mark.parametrize("required", [True, False])
def test_missing_dali_is_a_fault_with_a_gpu_alone(
    required: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    check = check_dali(required=required)
    assert check.status == "unavailable" and check.failed is required
    assert 'pip install ".[gpu]" in fastdual\'s checkout' in check.detail


@pytest.mark.gpu
@pytest.mark.needs("av", "nvidia.dali")
def test_gpu_is_fit() -> None:
    diagnosis = diagnose()
    assert not diagnosis.failures
    status = {check.name: check.status for check in diagnosis.checks}
    for name in ("loss contrastive", "loss shuffle-rank", "bf16 conv3d", "decode nvdec"):
        assert status[name] == "ok"
