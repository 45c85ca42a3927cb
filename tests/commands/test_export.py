"""`fastdual export` as it is typed; what it writes is tested in tests/weights."""

import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import Result

from tests.evaluate.small import small_checkpoint, small_index_file
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


def test_a_runs_export_is_followed_by_the_features_of_its_videos(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(small_checkpoint(), run / "checkpoints")
    assert "next" not in invoke(["export", str(run)]).stderr  # its videos are not known
    shutil.copy(small_index_file(), run / "index.h5")
    done = invoke(["export", str(run), "-o", str(tmp_path / "x.safetensors")])
    following = shlex.split(done.stderr.partition("next")[2])
    features = tmp_path / "x-features.h5"
    named = [str(tmp_path / "x.safetensors"), str(run / "index.h5"), "-o", str(features)]
    assert following == ["fastdual", "embed", *named]
    assert invoke([*following[1:], "--clips-per-video", "1", "--workers", "1"]).exit_code == 0
    assert features.exists()
