"""Every block of the README runs as it stands, in order, in a shell that knows nothing.

The shell starts with an empty environment and a home of its own. Two things are not done again: the
repository is cloned from this checkout, and `make install` links the environment that runs the
tests, for installing takes minutes and gigabytes.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fastdual.demo.videos import DemoSet, write_demo
from tests.conftest import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)
MAKE = """#!/bin/sh
[ "$*" = install ] || {{ echo "make $* is not tried here"; exit 1; }}
ln -s {environment} .venv
"""


def script() -> str:
    """The blocks as one program of the shell; a Python block becomes a file that python runs."""
    lines = ["set -e"]
    for number, (language, text) in enumerate(BLOCK.findall(README)):
        assert language in ("sh", "python"), f"a block of {language!r}: nobody can run it"
        if language == "python":
            lines += [f"cat > block{number}.py <<'PYTHON'", text.rstrip(), "PYTHON"]
            lines += [f"python block{number}.py"]
        else:
            for line in text.strip().splitlines():
                lines += [f"echo '$' {line.split()[0]}", line]
    return "\n".join(lines)


def own_videos(folder: Path) -> None:
    """Class folders of 12 small videos, as somebody might have them."""
    for _ in write_demo(folder / "drawn", DemoSet(train_scenes=2, test_scenes=1, frames=24)):
        pass
    for label in sorted(path for path in (folder / "drawn").iterdir() if path.is_dir())[:4]:
        shutil.copytree(label, folder / "videos" / label.name)


@pytest.mark.timeout(1500)
@pytest.mark.needs("av", "h5py")
def test_every_block_runs_as_it_stands_in_a_bare_shell(tmp_path: Path) -> None:
    own_videos(tmp_path)
    tools, home = tmp_path / "tools", tmp_path / "home"
    tools.mkdir(), home.mkdir()
    environment = Path(sys.prefix)
    assert (environment / "bin" / "activate").exists(), "the suite runs in make install's .venv"
    (tools / "make").write_text(MAKE.format(environment=environment))
    (tools / "make").chmod(0o755 | stat.S_IXUSR)
    # The clone is put beside the videos; what it runs is this checkout.
    program = script().replace("cd fastdual\n", "cd fastdual; ln -s ../videos videos\n", 1)
    assert "ln -s ../videos" in program
    bare = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "HOME": str(home),
        "REPOSITORY": str(PROJECT),
        "PYTHONPATH": str(PROJECT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        # Only so that git clones a checkout that belongs to somebody else.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    done = subprocess.run(
        ["bash", "-c", program],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
        timeout=1400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "Error" not in said and "Traceback" not in said, said[-3000:]
    checkout = tmp_path / "fastdual"
    for name in ("runs/first/report.html", "features.csv", "encoder.safetensors"):
        assert (checkout / name).stat().st_size > 1000, name
    assert "recipe    tiny: " in said and "torch.Size([12, 128])" in said
    following = re.findall(r"^next +(.*)", said, flags=re.M)
    assert any(line.startswith("fastdual report runs/first videos") for line in following)


def test_it_is_short_and_what_it_links_to_exists() -> None:
    assert len(README.splitlines()) <= 110
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            assert (PROJECT / path).exists(), link
            if anchor:
                titles = re.findall(r"^#+ (.*)$", (PROJECT / path).read_text(), flags=re.M)
                assert anchor in {title.lower().replace(" ", "-") for title in titles}, link
