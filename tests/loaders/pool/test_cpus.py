"""CPU quotas of containers, in both versions of control groups and at any depth."""

import math
import os
from pathlib import Path

import pytest

from fastdual.loaders.pool import cpus
from fastdual.loaders.pool.cpus import available_cpus, cpu_quota

V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "200000 100000"}, 2),
        ("0::/pod/box\n", {"cpu.max": "50000 100000\n"}, 0.5),  # the path is that of the host
        ("4:cpu,cpuacct:/box\n", {f"cpu,cpuacct/box/{V1[0]}": "300000", f"cpu/{V1[0]}": "-1"}, 3),
        ("4:cpu,cpuacct:/host/box\n0::/\n", {f"cpu/{V1[0]}": "100000"}, 1),
        ("4:cpuset:/box\n2:memory:/box\n", {f"cpu/box/{V1[0]}": "100000"}, math.inf),
        ("", {"cpu.max": "100000 100000"}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense\n"}, math.inf),
        ("0::/\n", {"cpu.max": "100000 0\n"}, math.inf),
    ],
)
def test_the_smallest_quota_of_a_group_and_those_above_counts(
    own: str, files: dict[str, str], quota: float, tmp_path: Path
) -> None:
    # Version 1 has the period in a file beside the quota.
    periods = dict.fromkeys([f.replace(*V1) for f in files if V1[0] in f], "100000")
    mount = write(tmp_path / "cgroup", {**files, **periods})
    (tmp_path / "own").write_text(own)
    assert cpu_quota(tmp_path / "own", mount) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "absent", tmp_path) == math.inf


def test_workers_follow_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    for quota, bound, expected in ((0.5, 8, 1), (2.5, 8, 3), (64, 2, 2), (math.inf, 4, 4)):
        monkeypatch.setattr(cpus, "cpu_quota", lambda *_, quota=quota: quota)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, bound=bound: set(range(bound)))
        assert available_cpus() == expected
        assert available_cpus(1000) == 1
