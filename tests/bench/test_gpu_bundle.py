"""bench.gpu_bundle: what a machine without network gets, and what it says."""

from pathlib import Path

import pytest

from bench import gpu_bundle
from bench.parts.gpu_bundle import packages
from fastdual.errors import FailureError


def test_what_is_written_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(folder: Path, options: object) -> None:
        (folder / "commit").write_text("abc\n")

    monkeypatch.setattr(gpu_bundle, "fill", fill)
    parts = ["--parts", str(tmp_path / "parts")]
    assert gpu_bundle.main(parts) == 0
    assert "bundle.tar.xz.00  0.0 MiB" in capsys.readouterr().out
    assert gpu_bundle.main([*parts, "--unpack", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "commit").read_text() == "abc\n"
    assert gpu_bundle.main(["--parts", str(tmp_path / "none"), "--unpack"]) == 2
    assert "carry all that gpu_bundle wrote" in capsys.readouterr().err


def test_packages_that_cannot_be_had_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_NEEDED", ("no-such-package==0",))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FailureError, match="pip cannot download the packages: .*no-such-package"):
        packages.write_packages(tmp_path / "site", python="3.12", cuda="130")
