"""W real processes on real videos against one with the whole batch; who is lost is named."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from fastdual.config import PretrainConfig, resolve
from fastdual.distributed.team import LostProcessError, Team, joined
from fastdual.distributed.world import World, read_world
from fastdual.errors import InputError
from fastdual.loaders.index import load_index
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.model.dual import create_model
from fastdual.run.folder import RunFolder
from fastdual.training.execution import choose_execution
from fastdual.training.loop import take_step
from fastdual.training.pretrain import Pretraining
from fastdual.training.start import create_loader, create_training
from fastdual.training.step import PretrainStep
from tests.gloo import end_process
from tests.runs import QUICK, write_index

# High temperatures and small steps: the paper's temperatures amplify the rounding of a fresh
# network's nearly equal embeddings within steps, so that fp32 runs of 1 and 2 processes part.
CALM = {
    "clip.frames_per_clip": 4,
    "clip.resize_height": 20,
    "clip.resize_width": 26,
    "clip.crop_size": 16,
    "data.batch_size": 8,
    "loss.clip_temperature": 1.0,
    "loss.coherence_temperature": 1.0,
    "loss.rank_temperature": 1.0,
    "optimiser.learning_rate": 1e-4,
    "schedule.epochs": 50,
    "schedule.milestones": "[]",
}
# Decoded and augmented once, then trained on in turn: what is compared is the training.
LOADED_BATCHES = 6


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=8)


def spawn(function: Callable[..., None], size: int, folder: Path, *args: Any) -> None:
    """Run a function in `size` processes that have met; it gets its Team first."""
    mp.spawn(_meet, (size, str(folder), function, args), nprocs=size)


def _meet(rank: int, size: int, folder: str, function: Callable[..., None], args: tuple) -> None:
    torch.set_num_threads(1)
    start_together(Path(folder), rank, range(size))
    port = os.path.join(folder, "port")
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=Path(port).read_text())
    with joined(read_world(), device=torch.device("cpu"), timeout_seconds=60) as team:
        function(team, *args)
    end_process()


def start_together(folder: Path, rank: int, ranks: Sequence[int]) -> None:
    """Wait until all have loaded their modules: on a busy machine that takes one of them a minute,
    and limits of seconds are meant for what comes after.
    """
    (folder / f"here-{rank}").touch()
    while not all((folder / f"here-{other}").exists() for other in ranks):
        time.sleep(0.01)


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(probe.getsockname()[1]))
    return tmp_path


def run_steps(
    team: Team,
    index: Path,
    folder: Path,
    *,
    steps: int,
    wide: bool,
    settings: dict[str, Any],
    mix: int | None = None,
    order: list[int] | None = None,
    in_one_graph: bool = False,
) -> dict[str, Any]:
    """Take steps from the start; losses averaged over processes, gradient norms and weights.

    With `mix`, which seeds it, each batch is permuted: the same sums in another order. `order`
    says how. With `in_one_graph` torch has to trace the network's forward as a whole; what it
    makes of the graph is left as it is, for C++ takes minutes to compile.
    """
    pairs = [f"{key}={value}" for key, value in (QUICK | CALM | settings).items()]
    config: PretrainConfig = resolve([], pairs).config
    videos, execution = load_index(index), choose_execution(config.run)
    torch.manual_seed(0)
    model = create_model(config)
    run = RunFolder(folder)
    found: dict[str, Any] = {"loss": [], "norm": [], "videos": []}
    with closing(create_loader(videos, None, config, execution, team.world, run)) as loader:
        training = create_training(Pretraining(config), model, loader, execution, team)
        if wide:
            training.model.double()
            training.objective.double()
        if in_one_graph:
            assert isinstance(training.compute, PretrainStep)
            training.compute.model = torch.compile(model, backend="aot_eager", fullgraph=True)
        batches = load_batches(loader, count=min(steps, LOADED_BATCHES))
    for training.step in range(steps):
        batch = batches[training.step % len(batches)]
        found["videos"].append(batch.video_ids.tolist())
        if wide:
            batch = replace(batch, clips=batch.clips.double())
        if mix is not None:
            generator = torch.Generator().manual_seed(1000 * mix + training.step)
            batch = permuted(batch, torch.randperm(len(batch.clips), generator=generator))
        if order is not None:
            batch = permuted(batch, torch.tensor(order))
        output = take_step(training, batch)
        metrics = team.mean({k: v.item() for k, v in output.metrics.items()})
        found["loss"].append(metrics["loss"])
        found["norm"].append(metrics["gradient_norm"])
    found["weights"] = {name: value.clone() for name, value in model.state_dict().items()}
    return found


def load_batches(loader: ClipLoader, *, count: int) -> list[ClipBatch]:
    """The first batches, over epoch borders."""
    batches: list[ClipBatch] = []
    while len(batches) < count:
        batches.extend(islice(loader, count - len(batches)))
    return batches


def permuted(batch: ClipBatch, order: torch.Tensor) -> ClipBatch:
    rows = {name: getattr(batch, name)[order] for name in ("clips", "permutation", "video_ids")}
    return replace(batch, **rows)


def run_jobs(team: Team, folder: Path, jobs: dict[str, dict[str, Any]]) -> None:
    """Run jobs one after the other, in as many processes as there are; rank 0 keeps the results."""
    for name, options in jobs.items():
        found = run_steps(team, folder=folder / name, **options)
        parts: list[Any] = [None] * team.world.size
        dist.all_gather_object(parts, found["videos"])
        found["videos"] = [sum(step, []) for step in zip(*parts, strict=True)]
        if team.is_main:
            torch.save(found, folder / f"{name}.pt")


def run_alone(folder: Path, *, mix: int | None = None, **options: Any) -> dict[str, Any]:
    return run_steps(Team(World(), None, 60), folder=folder, mix=mix, **options)


def assert_equals_one_process(
    folder: Path, name: str, job: Any, *, tolerance: float, order: list[int] | None = None
) -> None:
    ours, truth = torch.load(folder / f"{name}.pt"), run_alone(folder / "alone", order=order, **job)
    assert ours["videos"] == truth["videos"]
    for what in ("loss", "norm"):
        found, expected = (torch.tensor(r[what], dtype=torch.double) for r in (ours, truth))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=what)
    assert differences_beyond(ours["weights"], truth["weights"], tolerance) == []


def differences_beyond(ours: Any, truth: Any, tolerance: float) -> list[str]:
    return [
        name
        for name in truth
        if not torch.allclose(ours[name], truth[name], rtol=tolerance, atol=tolerance)
    ]


def test_a_few_steps_of_four_processes_equal_those_of_one(index: Path, meeting: Path) -> None:
    """At the paper's temperatures, in double: what differs is the arithmetic's order alone."""
    paper = {
        "loss.clip_temperature": 0.07,
        "loss.coherence_temperature": 0.07,
        "loss.rank_temperature": 0.05,
    }
    job = {"index": index, "steps": 3, "wide": True, "settings": paper}
    spawn(run_jobs, 4, meeting, meeting, {"paper": job})
    assert_equals_one_process(meeting, "paper", job, tolerance=1e-8)


BAD = (3, 5)
MOCO = {"model.framework": "moco", "moco.queue_size": 24}
CHUNKS = {"optimiser.accumulate_chunks": 2, "run.recompute_activations": "on"}
OPTIMISERS = {name: {"optimiser.name": name} for name in ("lars", "adamw")}


@pytest.fixture(scope="module")
def two(index: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Results of two processes, in a folder, and the jobs that they are of."""
    folder = tmp_path_factory.mktemp("two")
    damaged = write_index(folder / "damaged", count=8)
    videos = load_index(damaged)
    for number in BAD:
        videos.path(number).write_bytes(videos.path(number).read_bytes()[:300])
    common = {"index": index, "settings": {}, "wide": True}
    jobs = {
        "simclr": common | {"steps": 50},
        "moco": common | {"steps": 50, "settings": MOCO},
        "simclr in chunks": common | {"steps": 10, "settings": CHUNKS},
        "moco in chunks": common | {"steps": 10, "settings": MOCO | CHUNKS},
        "in one graph": common | {"steps": 5, "in_one_graph": True},
        "fp32": common | {"steps": 20, "wide": False},
        **{
            name: common | {"steps": 10, "settings": optimiser}
            for name, optimiser in OPTIMISERS.items()
        },
        # Three epochs in which the bad videos come to one rank, then to the other.
        "bad": {
            "index": damaged, "steps": 6, "wide": True, "settings": {"data.batch_size": 4},
        },
    }  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(probe.getsockname()[1]))
    spawn(run_jobs, 2, folder, folder, jobs)
    return folder, jobs


@pytest.mark.parametrize("name", ["simclr", "moco"])
def test_fifty_steps_of_two_processes_equal_those_of_one(
    two: tuple[Path, dict[str, Any]], name: str
) -> None:
    folder, jobs = two
    assert_equals_one_process(folder, name, jobs[name], tolerance=1e-6)


def test_the_network_of_two_processes_is_one_graph_and_trains_as_one_process_does(
    two: tuple[Path, dict[str, Any]],
) -> None:
    folder, jobs = two
    untraced = jobs["in one graph"] | {"in_one_graph": False}
    assert_equals_one_process(folder, "in one graph", untraced, tolerance=1e-6)


@pytest.mark.parametrize("name", ["simclr in chunks", "moco in chunks"])
def test_chunks_of_two_processes_equal_those_of_one(
    two: tuple[Path, dict[str, Any]], name: str
) -> None:
    """Chunk i of a step is chunk i of every process, normalised together: so one has to take it."""
    folder, jobs = two
    order = [0, 1, 4, 5, 2, 3, 6, 7]
    assert_equals_one_process(folder, name, jobs[name], tolerance=1e-6, order=order)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_other_optimisers_of_two_processes_equal_those_of_one(
    two: tuple[Path, dict[str, Any]], name: str
) -> None:
    folder, jobs = two
    assert_equals_one_process(folder, name, jobs[name], tolerance=1e-6)


def test_in_fp32_two_processes_part_no_further_than_one_that_sums_in_another_order(
    two: tuple[Path, dict[str, Any]],
) -> None:
    """Steps amplify rounding: a batch permuted, which changes nothing else, is the yardstick."""
    folder, jobs = two
    mixed: list[int | None] = [None, 1, 2]
    runs = [run_alone(folder / "alone", mix=mix, **jobs["fp32"]) for mix in mixed]
    whole, *others = (torch.tensor(run["loss"]) for run in runs)
    yardstick = max((other - whole).abs().max().item() for other in others)
    drift = (torch.tensor(torch.load(folder / "fp32.pt")["loss"]) - whole).abs()
    assert drift[0] < 1e-4
    # Runs of one kind differ among themselves several times over; an error is of another size.
    assert 0 < drift.max().item() < 10 * yardstick, (drift, yardstick)


def test_all_ranks_agree_on_what_replaces_a_bad_video(two: tuple[Path, dict[str, Any]]) -> None:
    folder, jobs = two
    quarantine = (folder / "bad" / "quarantine.jsonl").read_text().splitlines()
    named = {json.loads(line)["video"] for line in quarantine}
    assert named == set(BAD)
    shown = torch.load(folder / "bad.pt")["videos"]
    assert not any(set(step) & named for step in shown)
    assert_equals_one_process(folder, "bad", jobs["bad"], tolerance=1e-6)


def agree_and_average(team: Team) -> None:
    rank, size = team.world.rank, team.world.size
    # The answer to a question comes with the next one.
    assert team.agree(15 if rank == size - 1 else 0) == 0
    assert team.agree(0) == 15
    assert team.agree(0) == 0
    tensors = [torch.full((2, 3), float(rank)), torch.full((4,), float(rank), dtype=torch.double)]
    strided = torch.arange(24.0).reshape(1, 2, 3, 2, 2).to(memory_format=torch.channels_last_3d)
    tensors.append(strided * (rank + 1))
    expected = [tensor * 0 + (size - 1) / 2 for tensor in tensors[:2]] + [strided * (size + 1) / 2]
    team.average(tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))
    assert team.mean({"a": float(rank), "b": 1.0}) == {"a": (size - 1) / 2, "b": 1.0}
    assert team.gather({"rank": rank}) == [{"rank": number} for number in range(size)]
    assert team.from_main(lambda: {"rank": rank}) == {"rank": 0}
    with pytest.raises(InputError, match="only rank 0 saw this"):
        team.from_main(_refuse)
    team.check_equal({"config": {"a.b": 1}})
    with pytest.raises(InputError, match="config.a.b is 1 on rank 1 and 0 on rank 0: give every"):
        team.check_equal({"config": {"a.b": min(rank, 1)}, "data": {"c": rank}})


def _refuse() -> None:
    raise InputError("only rank 0 saw this")


def test_four_processes_agree_and_average(meeting: Path) -> None:
    spawn(agree_and_average, 4, meeting)


def victims_of(collective: str) -> tuple[int, ...]:
    """Rank 0 keeps the store that the others ask who is lost."""
    return {"keeper": (0,), "two": (0, 2)}.get(collective, (2,))


def hang_or_wait(rank: int, folder: str, collective: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="3", LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=Path(folder, "port").read_text())
    come = (0, 1) if collective == "join" else (0, 1, 2)
    if rank not in come:
        return
    start_together(Path(folder), rank, come)
    began = time.monotonic()
    try:
        with joined(read_world(), device=torch.device("cpu"), timeout_seconds=6) as team:
            calls = {"agree": lambda: team.agree(0), "meet": team.meet}
            call = calls.get(collective, lambda: team.average([torch.ones(2)]))
            team.average([torch.ones(2)])
            began = time.monotonic()
            if rank in victims_of(collective):
                os.kill(os.getpid(), signal.SIGKILL if collective == "kill" else signal.SIGSTOP)
            for _ in range(3):
                call()
    except LostProcessError as error:
        Path(folder, f"{rank}.txt").write_text(f"{time.monotonic() - began:.0f} {error}")


@pytest.mark.parametrize(
    "collective", ["average", "agree", "meet", "kill", "join", "keeper", "two"]
)
def test_a_process_that_hangs_ends_or_never_comes_is_named_in_time(
    collective: str, meeting: Path
) -> None:
    context = mp.get_context("spawn")
    processes = [
        context.Process(target=hang_or_wait, args=(rank, str(meeting), collective))
        for rank in range(3)
    ]
    for process in processes:
        process.start()
    victims = victims_of(collective)
    for process in (one for rank, one in enumerate(processes) if rank not in victims):
        process.join(timeout=100)
        assert process.exitcode == 0
    for rank in victims:
        processes[rank].kill()
        processes[rank].join()
    # Who never came is for rank 0 to tell: it keeps the store, and the others may lose that first.
    for rank in {0} if collective == "join" else {0, 1, 2} - set(victims):
        seconds, _, text = (meeting / f"{rank}.txt").read_text().partition(" ")
        assert text.startswith(f"rank {victims[0]} of 3"), text
        assert int(seconds) <= (30 if collective == "join" else 20), text
