"""Files written by commit 90bf688 are still read, and mean what they meant then.

tests/golden/written_by_90bf688/README.md says how each was made. Every test works on a copy.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

import fastdual
from fastdual.evaluate.features import FeatureSet
from fastdual.loaders.index import VideoIndex, open_index
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.plan import ClipSpec
from tests.packages import av
from tests.runs import invoke, read_log

pytestmark = pytest.mark.needs("av")

Arrays, State, Log = dict[str, NDArray[Any]], dict[str, Any], list[dict[str, Any]]

BACKBONE = "narrow_net:backbone"
OWN = ("--backbone", BACKBONE)
EMBED = ("--clips-per-video", "2", "--decode", "pyav", "--workers", "1", "--device", "cpu", *OWN)
FAILING = "ring-hops/scene01.mp4"
# Equal bits need the same kind of CPU. With kernels for SSE4.1 and AVX2 in place of AVX-512, losses
# differed by up to 1e-6 of their value, weights by 3e-4 of the distance that they had moved, and
# optimiser states by 2e-3 of their norm.
LOSS_TOLERANCE, STATE_TOLERANCE = 1e-5, 0.02
# Normalised colours, averaged over 8 x 8 pixels and stored in float16, which resolves 1e-3 here.
COLOUR_TOLERANCE = 5e-3


@pytest.fixture
def old(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copy the old files and make the copy the current folder, where the backbone is found."""
    folder = tmp_path / "old"
    shutil.copytree(golden / "written_by_90bf688", folder)
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


def succeed(*words: str) -> str:
    """Run a command and return its stdout."""
    result = invoke(list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


def read_state(file: Path) -> State:
    """Read a checkpoint with torch alone."""
    state: State = torch.load(file, weights_only=True)
    return state


def observed() -> Arrays:
    """Return what is read from the current folder's files; 90bf688 saved it as expected.npz."""
    videos, packed, small = (open_index(Path(f"{n}.h5")) for n in ("videos", "packed", "small"))
    return {
        "fingerprints": np.array([index.fingerprint for index in (videos, packed, small)]),
        "pictures.packed": pictures(packed),
        "pictures.small": pictures(small),
        "clips.videos": colours(clips(videos)),
        "clips.small": colours(clips(small)),
        **next_batches(videos),
    }


def pictures(index: VideoIndex) -> NDArray[Any]:
    """Return the SHA-256 of each video's decoded frames; H.264 and VP9 define every bit of them."""
    digests = [hashlib.sha256() for _ in range(len(index))]
    for video, digest in enumerate(digests):
        with av.open(io.BytesIO(index.source(video).read())) as container:
            for frame in container.decode(video=0):
                digest.update(frame.to_ndarray().tobytes())
    return np.array([digest.hexdigest() for digest in digests])


def clips(index: VideoIndex) -> torch.Tensor:
    """Return two clips per video, not augmented: [N, 2, 3, 8, 32, 32]."""
    size = {"resize_height": 36, "resize_width": 48, "crop_size": 32, "frames_per_clip": 8}
    spec = ClipSpec(mode="evaluate", frame_stride=2, clips_per_video=2, **size)
    options: Any = {"decode": "pyav", "num_workers": 1, "shuffle": False}
    with ClipLoader(index, spec, batch_size=len(index), **options) as loader:
        (batch,) = loader
    return batch.clips


def colours(clips: torch.Tensor) -> NDArray[Any]:
    """Average clips [B, V, 3, T, H, W] over 8 x 8 pixels."""
    means = torch.nn.functional.avg_pool3d(clips.flatten(0, 1), (1, 8, 8))
    return means.unflatten(0, clips.shape[:2]).numpy().astype(np.float16)


def next_batches(index: VideoIndex) -> Arrays:
    """Return the three batches after a checkpoint: the rest of its epoch, and the next one."""
    file = Path("pretrain/checkpoints/step-00000005.pt")
    spec = fastdual.load(file, backbone=BACKBONE).config.clip
    options: Any = {"split": "train", "seed": 0, "decode": "pyav", "num_workers": 1}
    with ClipLoader(index, spec, batch_size=2, **options) as loader:
        loader.load_state_dict(read_state(file)["order"])
        assert (loader.epoch, loader.step) == (2, 1)
        batches: list[ClipBatch] = [*loader, *loader]
    plans = [batch.plan.to_arrays() for batch in batches]
    return {
        **{f"batches.plan.{name}": np.stack([plan[name] for plan in plans]) for name in plans[0]},
        "batches.videos": np.stack([batch.video_ids.numpy() for batch in batches]),
        "batches.labels": np.stack([batch.labels.numpy() for batch in batches]),
        "batches.clips": np.stack([colours(batch.clips) for batch in batches]),
    }


def test_videos_packs_and_the_batches_after_a_checkpoint_are_the_same(old: Path) -> None:
    with np.load("expected.npz") as arrays:
        expected = dict(arrays)
    now = observed()
    assert now.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype == np.float16:
            assert np.abs(now[name] - values).max() <= COLOUR_TOLERANCE, name
        else:
            assert np.array_equal(now[name], values), name


def test_index_matches_its_videos(old: Path) -> None:
    index = open_index(Path("videos.h5"))
    assert index.root == old / "videos"
    assert index.paths[:2] == ("disc-orbits/scene00.webm", "disc-orbits/scene01.mp4")
    assert (len(index), index.num_frames.sum()) == (6, 168)
    assert index.class_names == ("disc-orbits", "ring-hops")
    assert index.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.split("test").tolist() == [2, 5]
    ((path, reason),) = index.quarantine
    assert path == "ring-hops/scene03.mp4" and "is not a video" in reason
    succeed("index", "videos.h5", "--verify")
    # A new index of the same videos fits the old runs and packs.
    succeed("index", "videos/videos.csv", "-o", "again.h5", "--workers", "1")
    assert open_index(Path("again.h5")).fingerprint == index.fingerprint


def test_packs_verify_and_hold_the_same_videos(old: Path) -> None:
    for pack in ("packed.h5", "small.h5"):
        succeed("pack", pack, "--verify", "--workers", "1")
    index, packed = open_index(Path("videos.h5")), open_index(Path("packed.h5"))
    for video in range(len(index)):
        assert packed.source(video).read() == index.path(video).read_bytes()
    assert torch.equal(clips(packed), clips(index))


def test_what_they_do_not_say_is_found_out_by_indexing_or_packing_again(old: Path) -> None:
    index, packed = open_index(Path("videos.h5")), open_index(Path("packed.h5"))
    assert set(index.pixel_formats) == set(packed.pixel_formats) == {""}
    succeed("index", "videos/videos.csv", "-o", "again.h5", "--workers", "1")
    succeed("pack", "packed.h5", "-o", "packed-again.h5", "--workers", "1")
    for name in ("again.h5", "packed-again.h5"):
        again = open_index(Path(name))
        assert again.fingerprint == index.fingerprint
        assert set(again.pixel_formats) == {"yuv420p"} and np.all(again.num_packets > 0)


@pytest.mark.parametrize("data", ["videos.h5", "packed.h5"])
def test_pretraining_resumes_to_the_same_state(old: Path, data: str) -> None:
    then = lose_newest_checkpoint(old / "pretrain")
    succeed("pretrain", data, "--run", "pretrain", "--resume", *OWN)
    assert_same_end(old / "pretrain", *then)


def test_moco_resumes_to_the_same_queue_and_keeps_its_quarantine(old: Path) -> None:
    failing, noted = old / "videos" / FAILING, old / "moco" / "quarantine.jsonl"
    failing.write_bytes(bytes(failing.stat().st_size))  # as in the old run
    lines = noted.read_bytes()
    then = lose_newest_checkpoint(old / "moco")
    succeed("pretrain", "videos.h5", "--run", "moco", "--resume", *OWN)
    assert_same_end(old / "moco", *then)
    assert json.loads(lines)["path"] == FAILING and noted.read_bytes() == lines


def test_finetuning_resumes_to_the_same_state_and_result(old: Path) -> None:
    result = old / "finetune" / "results" / "finetune-test.json"
    (before,) = json.loads(result.read_text())["splits"]
    result.unlink()
    then = lose_newest_checkpoint(old / "finetune")
    succeed("finetune", "pretrain", "videos.h5", "--run", "finetune", "--resume", *OWN)
    assert_same_end(old / "finetune", *then)
    (after,) = json.loads(result.read_text())["splits"]
    for key in ("train", "test", "num_train", "num_test", "metrics", "confusion"):
        assert after[key] == before[key]


def lose_newest_checkpoint(run: Path) -> tuple[State, State, Log]:
    """Delete the newer of a run's two checkpoints; return both states and all readings."""
    first, last = sorted((run / "checkpoints").iterdir())
    course = read_state(first), read_state(last), read_log(run, "train")
    last.unlink()
    return course


def assert_same_end(run: Path, before: State, last: State, readings: Log) -> None:
    """Compare a resumed run with what followed under 90bf688."""
    now = read_state(max((run / "checkpoints").iterdir()))
    for name in ("step", "order", "data"):
        assert now[name] == last[name], name
    assert torch.equal(now["rng"]["cpu"], last["rng"]["cpu"])
    for part in ("model", "objective"):
        assert now[part].keys() == last[part].keys()
        for name, theirs in last[part].items():
            assert_close(now[part][name], theirs, theirs - before[part][name], name)
    for number, state in last["optimiser"]["state"].items():
        for name, theirs in state.items():
            assert_close(now["optimiser"]["state"][number][name], theirs, theirs, name)
    log = read_log(run, "train")
    for name in ("step", "epoch", "learning_rate"):
        assert [event[name] for event in log] == [event[name] for event in readings]
    losses = [[event["loss"] for event in events] for events in (log, readings)]
    assert losses[0] == pytest.approx(losses[1], rel=LOSS_TOLERANCE)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, scale: torch.Tensor, name: str) -> None:
    assert ours.shape == theirs.shape, name
    if theirs.is_floating_point():
        assert (ours - theirs).norm() <= STATE_TOLERANCE * scale.norm() + 1e-6, name
    else:
        assert torch.equal(ours, theirs), name


def test_networks_load_with_exactly_their_weights(old: Path) -> None:
    exported = safetensors.torch.load_file("pretrain/backbone.safetensors")
    pretrained = backbone_weights(Path("pretrain/checkpoints/step-00000008.pt"))
    for source, weights in (
        ("pretrain", exported),
        ("pretrain", pretrained),
        ("pretrain/backbone.safetensors", pretrained),
        ("finetune", backbone_weights(Path("finetune/checkpoints/step-00000006.pt"))),
    ):
        encoder = fastdual.load(source, backbone=BACKBONE)
        loaded = encoder.backbone.state_dict()
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], weights[name]) for name in weights), source
        assert (encoder.config.clip.crop_size, encoder.config.clip.frame_stride) == (32, 2)


def backbone_weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the backbone in a checkpoint, by their names in the backbone."""
    part = "backbone."
    weights = read_state(file)["model"].items()
    return {name.removeprefix(part): value for name, value in weights if name.startswith(part)}


def test_networks_give_the_same_features(old: Path) -> None:
    then = FeatureSet.load(Path("features.h5"))
    assert then.features.shape == (6, 8) and then.features.std(axis=0).min() > 0.1
    for source in ("pretrain", "pretrain/backbone.safetensors"):
        succeed("embed", source, "videos.h5", "-o", "now.h5", *EMBED)
        now = FeatureSet.load(Path("now.h5"))
        assert np.abs(now.features - then.features).max() <= 1e-4
        for name in ("paths", "class_names", "groups", "data_fingerprint", "settings"):
            assert getattr(now, name) == getattr(then, name), name
        assert np.array_equal(now.labels, then.labels)
        assert [video.path for video in now.left_out] == [video.path for video in then.left_out]
        assert now.splits.keys() == then.splits.keys()
        for split, rows in then.splits.items():
            assert np.array_equal(now.splits[split], rows)


def test_features_file_gives_the_same_retrieval(old: Path) -> None:
    succeed("retrieve", "features.h5")
    (now,) = Path("features-results").glob("retrieve-*.json")
    (then,) = Path("pretrain/results").glob("retrieve-*.json")
    results = [json.loads(file.read_text()) for file in (now, then)]
    assert [split.pop("pretrained_on") for split in results[0]["splits"]] == [0]  # not counted then
    for key in ("splits", "checkpoint", "data_fingerprint"):
        assert results[0][key] == results[1][key]


def test_runs_and_results_are_listed(old: Path) -> None:
    runs = {run["run"]: run for run in json.loads(succeed("runs", ".", "--json"))}
    places = {name: (run["state"], run["step"], run["total_steps"]) for name, run in runs.items()}
    assert places == {
        "failed": ("failed", 2, 80),
        "finetune": ("complete", 6, 6),
        "moco": ("complete", 6, 6),
        "pretrain": ("complete", 8, 8),
    }
    last, metrics = read_log(old / "pretrain", "train")[-1], runs["pretrain"]["metrics"]
    assert (metrics["loss"], metrics["clip_top1"]) == (last["loss"], last["clip_top1"])
    table = succeed("table", "pretrain", "finetune")
    assert "| pretrain | " in table and " 100.0 [100.0, 100.0] |" in table
    assert "| finetune | " in table and " 50.0 [0.0, 100.0] |" in table


def test_failed_step_is_replayed_from_its_plan(old: Path) -> None:
    plan = "failed/plan-step-00000001.npz"
    shown = succeed("replay", "videos.h5", plan, *OWN)
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    paths = open_index(Path("videos.h5")).paths
    with np.load(plan) as arrays:
        videos = [paths[video] for video in arrays["videos"]]
    assert lines["step"].startswith("1,") and all(path in lines["videos"] for path in videos)
    assert "not finite" in lines["layers"]
