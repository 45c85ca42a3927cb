"""The memory of a step, counted before it: against what torch keeps, and refusals that help."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastdual.config import resolve
from fastdual.distributed.world import World
from fastdual.errors import InputError
from fastdual.model.dual import create_model
from fastdual.model.recompute import recompute_activations
from fastdual.training import memory
from fastdual.training.execution import choose_execution
from fastdual.training.memory import _left_to_groups, forward_bytes, host_bytes, require_memory
from fastdual.training.pretrain import Pretraining
from tests.runs import arguments, assert_refused, write_index

GIB = 2**30


def kept_by(model: nn.Module, clips: Tensor) -> int:
    """Bytes that a real forward keeps for its backward, weights left out."""
    kept, weights = {}, {weight.data_ptr() for weight in model.parameters()}

    def note(value: Tensor) -> Tensor:
        if value.data_ptr() not in weights:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        outputs = model(clips)
    assert outputs[0].requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("backbone", ["tiny", "r3d", "s3d"])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_count_is_what_torch_keeps(backbone: str, recompute: bool) -> None:
    config = resolve([], [f"model.backbone={backbone}"]).config
    model, shape = create_model(config).train(), (8, 48, 48)
    counted = forward_bytes(model, shape, recompute=recompute)
    if recompute:
        recompute_activations(model.backbone)
    truth = kept_by(model, torch.randn(2, 3, *shape)) / 2
    assert counted == pytest.approx(truth, rel=0.02)
    assert all(not weight.is_meta for weight in model.parameters())


def task_of(*settings: str) -> Pretraining:
    return Pretraining(resolve([], ["model.backbone=tiny", *settings]).config)


def test_a_step_that_cannot_fit_is_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("clip.crop_size=48", "clip.blur_sigma=0.1,1")
    model, execution = create_model(task.config), choose_execution(task.config.run)
    monkeypatch.setattr(memory, "host_bytes", lambda: GIB)
    with pytest.raises(InputError, match=r"64 videos needs about .* GiB .* and 1.0 GiB are left"):
        require_memory(model, task, execution, World())
    with pytest.raises(InputError) as caught:
        require_memory(model, task, execution, World())
    fits = int(str(caught.value).partition("--batch-size ")[2].split()[0])
    assert 2 <= fits < 64
    for size, enough in ((fits, True), (fits + 1, False)):
        other = task_of("clip.crop_size=48", "clip.blur_sigma=0.1,1", f"data.batch_size={size}")
        try:
            need = require_memory(model, other, execution, World())
            assert enough and need is not None and need.total(size) <= GIB
        except InputError:
            assert not enough
    # Of two machines with two processes each, each process has half of a machine's memory.
    four = World(size=4, local_size=2)
    need = require_memory(
        model,
        task_of("clip.crop_size=48", "clip.blur_sigma=0.1,1", f"data.batch_size={2 * fits - 4}"),
        execution,
        four,
    )
    assert need is not None
    monkeypatch.setattr(memory, "host_bytes", lambda: 1 << 20)
    with pytest.raises(InputError, match="not even its weights fit"):
        require_memory(model, task, execution, World())


def test_a_clip_of_thousands_of_frames_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    index = write_index(tmp_path / "data", count=4)
    long = {"clip__frames_per_clip": 8192, "clip__num_segments": 4, "clip__crop_size": 512}
    long |= {"clip__resize_height": 512, "clip__resize_width": 512}
    args = arguments(index, tmp_path / "run", **long)
    assert_refused(args, "a step of 4 videos needs about", "GiB are left", "frames per clip")


def test_there_is_certainly_enough_for_a_small_run() -> None:
    task = task_of("clip.frames_per_clip=2", "clip.crop_size=16", "clip.blur_sigma=0.1,1",
                   "data.batch_size=2")  # fmt: skip
    model, execution = create_model(task.config), choose_execution(task.config.run)
    assert require_memory(model, task, execution, World()) is None


def test_memory_is_that_of_the_machine_or_of_the_control_groups(tmp_path: Path) -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < host_bytes() <= total
    own, root = tmp_path / "cgroup", tmp_path / "root"
    inner = root / "slice" / "job"
    inner.mkdir(parents=True)
    own.write_text("0::/slice/job\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("5\n")
    assert list(_left_to_groups(own, root)) == []
    (root / "slice" / "memory.max").write_text("1000\n")
    (root / "slice" / "memory.current").write_text("700\n")
    (root / "slice" / "memory.stat").write_text("anon 300\ninactive_file 300\nactive_file 100\n")
    assert list(_left_to_groups(own, root)) == [700]
    own.write_text("12:cpu:/x\n5:memory:/docker\n")  # version 1
    old = root / "memory" / "docker"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("2000\n")
    (old / "memory.usage_in_bytes").write_text("500\n")
    (old / "memory.stat").write_text("total_inactive_file 9\n")
    assert list(_left_to_groups(own, root)) == [1500]
    assert math.isfinite(next(_left_to_groups(own, root)))
