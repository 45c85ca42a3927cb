"""`fastdual export` as it is typed; what it writes is tested in tests/weights."""

from pathlib import Path

from tests.evaluate.small import small_checkpoint
from tests.runs import invoke


def test_export_is_refused_before_the_work_where_its_file_could_not_be_used(
    tmp_path: Path,
) -> None:
    for target, message in {
        tmp_path / "none" / "x.onnx": f"the folder {tmp_path / 'none'} does not exist",
        tmp_path / "x.pth": f"by its suffix; name it {tmp_path / 'x.safetensors'}",
    }.items():
        form = "onnx" if target.suffix == ".onnx" else "safetensors"
        words = ["export", str(small_checkpoint()), "--format", form, "-o", str(target)]
        done = invoke(words)
        assert done.exit_code == 2 and message in done.stderr, done.output
    assert not list(tmp_path.iterdir())
