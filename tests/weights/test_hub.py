"""Networks on the hub: pushed to a stand-in of its HTTP interface and fetched from there again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fastdual
from fastdual.errors import InputError
from fastdual.weights.hub import is_address
from tests.conftest import PROJECT
from tests.evaluate.small import small_checkpoint, small_index_file
from tests.evaluate.synthetic import made_result, made_split
from tests.weights.hub_server import HubServer

# huggingface_hub reads its address when it is imported, so that each test has a process of its own.
CODE = """
import sys, torch, fastdual
encoder = fastdual.load(sys.argv[1])
torch.save(encoder.state_dict(), sys.argv[2])
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture
def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def run(environment: dict[str, str], *words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.needs("h5py")
def test_what_is_pushed_is_loaded_bit_for_bit(
    hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    export = ["-m", "fastdual", "export", small_checkpoint(), "-o", out, "--push", "me/net"]
    done = run(environment, *export)
    assert done.returncode == 0, done.stderr
    assert "pushed: hf://me/net" in done.stdout
    files = hub.repositories["me/net"]
    assert set(files) == {"model.safetensors", "config.json", "README.md"}
    assert files["model.safetensors"] == out.read_bytes()
    assert json.loads(files["config.json"])["model.backbone"] == "tiny"
    card = files["README.md"].decode()
    assert 'fastdual.load("hf://me/net")' in card and "Nothing was measured" in card
    done = run(environment, "-c", CODE, "hf://me/net@main", tmp_path / "state.pt")
    assert done.returncode == 0, done.stderr
    truth = fastdual.load(small_checkpoint()).state_dict()
    fetched = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(torch.equal(fetched[name], value) for name, value in truth.items())
    # A command takes the address in place of a run, and the second time nothing is downloaded.
    hub.requests.clear()
    index = small_index_file()
    embed = ["embed", "hf://me/net", index, "-o", tmp_path / "f.csv", "--split", "test"]
    done = run(environment, "-m", "fastdual", *embed, "--clips-per-video", "1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert not [request for request in hub.requests if request.startswith("GET")]


@pytest.mark.needs("h5py")
def test_the_card_shows_what_was_measured(
    hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "first"
    (folder / "results").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / small_checkpoint().name).write_bytes(small_checkpoint().read_bytes())
    result = made_result(made_split("test", top1=0.625))
    (folder / "results" / "knn.json").write_text(json.dumps(result))
    done = run(environment, "-m", "fastdual", "export", folder, "--push", "hf://me/net")
    assert done.returncode == 0, done.stderr
    assert "| top1 |" in (card := hub.repositories["me/net"]["README.md"].decode())
    assert "62.5" in card and "| first |" in card


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("hf://me/absent", 2, "there is no such model, or it is private"),
        ("hf://me/empty", 2, "holds no model.safetensors"),
        ("hf://me/empty@v9", 2, "has no revision 'v9'"),
        ("hf://alone", 2, "an address on the hub is hf://user/model"),
    ],
)
def test_what_is_not_there_is_one_line(
    hub: HubServer, environment: dict[str, str], address: str, code: int, said: str
) -> None:
    hub.repositories["me/empty"] = {}
    done = run(environment, "-m", "fastdual", "export", address, "-o", "/tmp/never.safetensors")
    assert done.returncode == code and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.needs("h5py")
def test_a_hub_that_refuses_or_is_away_is_one_line(
    hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.refuses = True
    export = ["export", small_checkpoint(), "-o", tmp_path / "x.safetensors", "--push", "me/net"]
    done = run(environment, "-m", "fastdual", *export)
    assert done.returncode == 1 and "hf://me/net: could not be pushed" in done.stderr
    assert "hf auth login" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    away = {**environment, "HF_HUB_OFFLINE": "1"}
    done = run(away, "-m", "fastdual", "export", "hf://me/net", "-o", tmp_path / "y.safetensors")
    assert done.returncode == 1 and "the hub cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_address_is_told_from_a_path() -> None:
    assert is_address("hf://me/net") and is_address(Path("hf://me/net"))
    assert not is_address(Path("runs/hf")) and not is_address("/hf:/x")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'run pip install ".\[hub\]" in'):
        fastdual.load("hf://me/net")
