"""PyAV and DALI for a machine without network: unpacked wheels, without what is not loaded."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fastdual.errors import FailureError

ROOT = Path(__file__).resolve().parents[3]
# What `import nvidia.dali` and a graph of views load, and a machine with torch may lack.
_NEEDED = ("av", "astunparse", "gast", "optree", "six")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64",
              "manylinux2014_x86_64", "manylinux1_x86_64")  # fmt: skip
# Headers, plugins of other frameworks, and the extensions for other Pythons than the target's.
_LEFT_OUT = ("nvidia/dali/include", "nvidia/dali/plugin/tf")


def write_packages(folder: Path, *, python: str, cuda: str) -> None:
    """Download wheels and unpack them into a folder for PYTHONPATH.

    Args:
        folder: Made anew.
        python: Version of the target's Python, "3.12".
        cuda: DALI's build: "130" or "120".

    Raises:
        FailureError: pip cannot download them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as wheels:
        platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels,
             "--constraint", str(ROOT / "constraints.txt"), "--only-binary=:all:",
             "--implementation", "cp", "--python-version", python, *platforms,
             *_NEEDED, f"nvidia-dali-cuda{cuda}"],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise FailureError(f"pip cannot download the packages: {done.stderr.strip()[-500:]}")
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    strip(folder, python)


def strip(folder: Path, python: str) -> None:
    """Delete what no run of fastdual loads."""
    for name in _LEFT_OUT:
        shutil.rmtree(folder / name, ignore_errors=True)
    kept = f".cpython-{python.replace('.', '')}-"
    for extension in (folder / "nvidia").rglob("*.cpython-*.so"):
        if kept not in extension.name:
            extension.unlink()
