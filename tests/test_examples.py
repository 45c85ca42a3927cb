"""Every example runs as it stands, in a process of its own, on class folders of small videos."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.evaluate.small import small_checkpoint, small_index_file

FOLDER = PROJECT / "examples"
# What each is given, and what its output must show.
ARGUMENTS = {
    "clip.py": (["VIDEOS"], r"epoch 5 loss \d"),
    "linear_probe.py": (
        ["NETWORK", "VIDEOS"],
        r"features \(24, 128\) of 8 classes\naccuracy 0\.\d",
    ),
    "loader_in_a_loop.py": (["VIDEOS"], "resumed with the same clips: True"),
    "losses_in_a_loop.py": ([], r"temperature=0\.2.*step 59 loss \d"),
    "losses_in_lightning.py": (["VIDEOS"], r"9 steps, loss \d"),
    "own_backbone.py": (["VIDEOS", "RUN"], r"checkpoint  .*step-00000006\.pt"),
    "supcon.py": (["VIDEOS"], r"24 videos of 8 classes.*epoch 3 loss \d"),
}


def test_every_example_is_tried_listed_and_short() -> None:
    found = {path.name for path in FOLDER.glob("*.py")}
    assert found == set(ARGUMENTS)
    listed = set(re.findall(r"\]\(([\w.]+)\)", (FOLDER / "README.md").read_text()))
    assert listed == found | {path.name for path in FOLDER.glob("*.ipynb")}
    long = [name for name in found if len((FOLDER / name).read_text().splitlines()) > 60]
    assert not long


@pytest.mark.timeout(900)
@pytest.mark.needs("av", "h5py")
@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    videos = small_index_file().parent / "videos"
    places = {"VIDEOS": videos, "NETWORK": small_checkpoint(), "RUN": tmp_path / "run"}
    words, shown = ARGUMENTS[name]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    environment["XDG_CACHE_HOME"] = str(small_index_file().parent / "cache")
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), *(str(places[word]) for word in words)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(shown, done.stdout, flags=re.S), done.stdout
    losses = [float(loss) for loss in re.findall(r"(?:epoch|step) \d+ loss (\S+)", done.stdout)]
    assert not losses or losses[-1] < losses[0]


@pytest.mark.timeout(1500)
@pytest.mark.needs("av", "h5py")
def test_the_notebook_goes_from_videos_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notebook = nbformat.read(FOLDER / "first_hour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    nbclient.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert (tmp_path / "run" / "report.html").stat().st_size > 50_000
    printed = str(notebook.cells)
    assert "chance" in printed and "Error: " not in printed and "Traceback" not in printed
