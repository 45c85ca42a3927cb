"""Of DALI's files those stay that the machine's Python loads."""

from pathlib import Path

from bench.parts.gpu_bundle.packages import strip


def test_what_is_not_loaded_is_deleted(tmp_path: Path) -> None:
    kept = ["nvidia/dali/libdali.so", "nvidia/dali/.libs/libavcodec.so.63", "av/_core.abi3.so"]
    kept += ["nvidia/dali/backend_impl.cpython-312-x86_64-linux-gnu.so"]
    deleted = ["nvidia/dali/backend_impl.cpython-311-x86_64-linux-gnu.so"]
    deleted += ["nvidia/dali/backend_impl.cpython-314t-x86_64-linux-gnu.so"]
    deleted += ["nvidia/dali/include/dali/core.h"]
    for name in (*kept, *deleted):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    strip(tmp_path, "3.12")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
