"""No traceback for input, ever: each kind of file and text with wrong values in random places."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from fastdual.config import PretrainConfig, resolve
from fastdual.config.recipe import parse_toml, read_recipe, to_toml
from fastdual.distributed.team import Team
from fastdual.distributed.world import World, read_machines, read_world
from fastdual.evaluate.average import check_one_method
from fastdual.evaluate.results import find_results
from fastdual.loaders.index import load_index
from fastdual.report.page import read_facts
from fastdual.report.runs import read_curves
from fastdual.report.sections import results as results_section
from fastdual.report.table import markdown_table, summary
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from fastdual.run.folder import RunFolder
from fastdual.run.log import RunLog
from fastdual.run.summary import describe_runs, find_runs
from fastdual.training.execution import choose_execution
from fastdual.training.pretrain import Pretraining
from fastdual.training.resume import current_versions, restore
from fastdual.training.start import create_loader, create_model, create_training
from fastdual.weights.export import read_safetensors
from fastdual.weights.load import load, load_network
from tests.hostile import CASES, TEXTS, broken_texts, judge, mutants
from tests.runs import arguments, invoke, write_index


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with AdamW and MoCo: a checkpoint of many parts."""
    folder = tmp_path_factory.mktemp("fuzz")
    index = write_index(folder, count=4)
    settings = {"schedule__epochs": 2, "schedule__milestones": "[]", "optimiser__name": "adamw"}
    moco = {"model__framework": "moco", "moco__queue_size": 4}
    done = invoke(arguments(index, folder / "run", **settings, **moco))
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_checkpoints(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = load_checkpoint(find_checkpoint(run))
    config = PretrainConfig.from_dict(state["config"], origin="run")
    videos, task = load_index(run.parent / "videos.h5"), Pretraining(config)
    identity = {"fingerprint": videos.fingerprint, "split": None, "num_videos": len(videos)}
    constants = {"config": config.to_dict(), "data": identity, "versions": current_versions()}
    execution, folder = choose_execution(config.run), RunFolder(tmp_path / "run")
    tensors = (
        torch.tensor(1.5), torch.full((16,), torch.nan), torch.zeros(3, 4), torch.zeros(0),
        torch.zeros(16, dtype=torch.complex64), torch.zeros(3, 4).to_sparse(), b"bytes", {1: 2},
        torch.zeros(1).expand(10**6),
    )  # fmt: skip
    taken, file = 0, folder.checkpoints / "step-00000002.pt"
    with closing(create_loader(videos, None, config, execution, World(), folder)) as loader:
        training = create_training(task, create_model(task), loader, execution)
        team = Team(World(), None, 60)
        for number, mutant in enumerate(mutants(state, seed=1, more=tensors)):
            monkeypatch.setattr(folder, "load_newest", lambda m=mutant: (file, m))
            if judge(lambda: restore(training, folder, constants, team), file.name):
                taken += 1
                assert type(training.step) is int
                assert all(bool(w.isfinite().all()) for w in training.model.parameters())
            if number % 5 == 0:  # through a file as well, which takes its time
                save_checkpoint(file, mutant)
                judge(lambda: load_network(file), file.name)
                judge(lambda: read_facts(file), file.name)
    assert 0 < taken < CASES


def test_headers_of_exports(run: Path, tmp_path: Path) -> None:
    whole, file = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    assert invoke(["export", str(run), "-o", str(whole)]).exit_code == 0
    weights = safetensors.torch.load_file(whole)
    with safetensors.safe_open(whole, framework="pt") as opened:
        text = opened.metadata()["fastdual"]
    headers = [json.dumps(mutant) for mutant in mutants(json.loads(text), seed=2)]
    headers += broken_texts(text, seed=3)
    for number, header in enumerate(headers):
        if "\ud800" not in header:  # the writer refuses it
            metadata = {"format": "pt", "fastdual": header}
            file.write_bytes(safetensors.torch.save(weights, metadata=metadata))
            read = load if number % 10 == 0 else read_safetensors
            judge(lambda: read(file), file.name)  # noqa: B023


def test_recipes(tmp_path: Path) -> None:
    _, values = read_recipe("tiny")
    file = tmp_path / "mine.toml"
    for text in broken_texts(to_toml(values), seed=4):
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        judge(lambda: resolve([read_recipe(str(file))]), file.name)
    for mutant in mutants({**values, "x": {"y": [1]}}, seed=5):
        judge(lambda m=mutant: resolve([("recipe mine.toml", m)]))  # type: ignore[misc]


def test_settings() -> None:
    rng = np.random.default_rng(6)
    keys = list(PretrainConfig().to_dict())
    for _ in range(CASES):
        key, text = keys[rng.integers(len(keys))], TEXTS[rng.integers(len(TEXTS))]
        judge(lambda k=key, t=text: resolve([], [f"{k}={t}"]))  # type: ignore[misc]
    for text in TEXTS:
        judge(lambda t=text: resolve([], [t]))  # type: ignore[misc]
        judge(lambda t=text: parse_toml(t, origin="x"))  # type: ignore[misc]


def test_logs(run: Path, tmp_path: Path) -> None:
    folder, lines = tmp_path / "run", (run / "log.jsonl").read_text().splitlines()
    folder.mkdir()
    events = list(map(json.loads, lines))
    texts = ["\n".join(map(json.dumps, mutant)) for mutant in mutants(events, seed=7)]
    texts += broken_texts("\n".join(lines), seed=8)
    for text in texts:
        (folder / "log.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
        describe_runs(find_runs(folder))
        judge(lambda: read_curves(folder, "run"), "run")
    for text in texts[:: max(1, len(texts) // 20)]:  # TensorBoard takes its time
        (folder / "log.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
        RunLog(folder, start_step=1).close()
        (folder / "quarantine.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))


def test_results(golden: Path, tmp_path: Path) -> None:
    files = sorted((golden / "written_by_90bf688" / "pretrain" / "results").glob("*.json"))
    file = tmp_path / "result.json"

    def read() -> None:
        found = find_results([file])
        markdown_table(found, with_mean=True)
        results_section(found)
        summary(found[0][1])
        check_one_method(found * 2)

    for seed, whole in enumerate(files):
        result: dict[str, Any] = json.loads(whole.read_text())
        texts = [json.dumps(mutant) for mutant in mutants(result, seed=seed)]
        texts += broken_texts(whole.read_text(), seed=seed)
        for text in texts[:: len(files)]:
            file.write_bytes(text.encode("utf-8", "surrogatepass"))
            judge(read)


def test_environments() -> None:
    rng = np.random.default_rng(9)
    names = (
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NODEID",
        "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_JOB_ID",
        "SLURM_STEP_NODELIST", "PET_NNODES", "PET_NODE_RANK", "PET_NPROC_PER_NODE", "MASTER_ADDR",
    )  # fmt: skip
    for _ in range(CASES):
        environment = {
            name: str(rng.integers(0, 5)) if rng.random() < 0.6 else TEXTS[rng.integers(len(TEXTS))]
            for name in names
            if rng.random() < 0.6
        }
        judge(lambda e=environment: read_world(e))  # type: ignore[misc]
        judge(lambda e=environment: read_machines(e))  # type: ignore[misc]
