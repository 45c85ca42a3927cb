"""`fastdual export` as it is typed; what it writes is tested in tests/weights."""

from pathlib import Path

import pytest
from click.testing import Result

from tests.evaluate.small import small_checkpoint
from tests.runs import invoke


def export(form: str, target: Path) -> Result:
    return invoke(["export", str(small_checkpoint()), "--format", form, "-o", str(target)])


def test_export_is_refused_before_the_work_where_its_file_could_not_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdual.weights.load.load", lambda *_, **__: pytest.fail("was loaded"))
    done = export("safetensors", tmp_path / "x.pth")
    assert done.exit_code == 2
    assert f"by its suffix; name it {tmp_path / 'x.safetensors'}" in done.stderr
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        done = export("onnx", folder / "x.onnx")
        assert done.exit_code == 2
        assert f"{folder / 'x.onnx'}: {tmp_path / 'file'} is no folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    done = export("safetensors", tmp_path / "new" / "x.safetensors")
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]
