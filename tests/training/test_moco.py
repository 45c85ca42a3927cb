"""MoCo's queue, momentum encoder and losses, against the formulas written out as loops."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp

from fastdual.config import PretrainConfig, resolve
from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.plan import ClipSpec, draw_plan
from fastdual.model.dual import create_model
from fastdual.run.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from fastdual.training.execution import choose_execution
from fastdual.training.moco import KeyQueue, MoCoObjective, queue_contrast
from fastdual.training.step import PretrainStep, create_objective
from fastdual.weights.load import load_network
from tests.gloo import gloo_process
from tests.runs import QUICK, arguments, differences, invoke, read_log, start, write_index
from tests.training.test_objective import B, S, embeddings, shuffle_rank

K = 7


def config_of(**settings: Any) -> PretrainConfig:
    values = {**QUICK, "model.framework": "moco", "moco.queue_size": K}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    return resolve([], [f"{key}={value}" for key, value in values.items()]).config


def objective_of(**settings: Any) -> MoCoObjective:
    config = config_of(
        clip__num_segments=S, clip__frames_per_clip=9, model__clip_dim=6, model__segment_dim=4,
        **settings,
    )  # fmt: skip
    torch.manual_seed(3)
    return MoCoObjective(config, nn.Linear(2, 2)).double()


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> tuple[float, float]:
    """Mean loss, and the share of rows whose own key is the most similar."""
    losses, hits = [], 0
    for row, own in zip(query.tolist(), key.tolist(), strict=True):
        logits = [dot(row, other) / temperature for other in [own, *queue.tolist()]]
        losses.append(math.log(math.fsum(map(math.exp, logits))) - logits[0])
        hits += logits[0] == max(logits)
    return math.fsum(losses) / len(losses), hits / len(losses)


def test_the_losses_are_the_formulas_over_the_queues_as_they_were() -> None:
    clip, segments, permutation, ids = embeddings()
    objective = objective_of(
        loss__clip_temperature=0.5, loss__coherence_temperature=0.3, loss__rank_temperature=0.4
    )
    queues = objective.clip_queue.keys.clone(), objective.segment_queue.keys.clone()
    output = objective(clip, segments, permutation, ids)
    means = segments.detach().mean(dim=2)
    expected = {
        "clip": info_nce(clip[:, 0], clip[:, 1], queues[0], 0.5)[0],
        "coherence": info_nce(means[:, 0], means[:, 1], queues[1], 0.3)[0],
        "rank": 0.5 * shuffle_rank(segments[:, 0], segments[:, 3], permutation, 0.4)
        + 0.5 * shuffle_rank(segments[:, 2], segments[:, 3], permutation, 0.4),
    }
    for name, value in expected.items():
        assert output.metrics[name].item() == pytest.approx(value, rel=1e-9), name
    assert output.loss.item() == pytest.approx(math.fsum(expected.values()), rel=1e-9)
    # Only afterwards do the keys of this batch join.
    assert torch.equal(objective.clip_queue.keys[:B], clip[:, 1].detach())
    assert torch.equal(objective.segment_queue.keys[:B], means[:, 1])
    assert torch.equal(objective.clip_queue.keys[B:], queues[0][B:])


@pytest.mark.parametrize("temperature", [0.5, 0.07])
def test_a_contrast_with_a_queue_has_the_gradient_of_the_plain_formula(temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(B, 6), (B, 6), (K, 6)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    query, key, queue = (nn.functional.normalize(tensor, dim=1) for tensor in tensors)
    rows = [query.clone().requires_grad_(), query.clone().requires_grad_()]
    result = queue_contrast(rows[0], key, queue, temperature=temperature, backend="auto")
    result.loss.backward()
    logits = torch.cat([(rows[1] * key).sum(dim=1, keepdim=True), rows[1] @ queue.T], dim=1)
    truth = nn.functional.cross_entropy(logits / temperature, torch.zeros(B, dtype=torch.int64))
    truth.backward()
    torch.testing.assert_close(result.loss, truth, rtol=1e-9, atol=1e-12)
    assert rows[0].grad is not None
    torch.testing.assert_close(rows[0].grad, rows[1].grad, rtol=1e-8, atol=1e-11)
    top1 = info_nce(query, key, queue, temperature)[1]
    assert result.top1.double().mean().item() == pytest.approx(top1)


@pytest.mark.parametrize(
    ("loss", "clip_views", "segment_views"),
    [
        ("clip", {0}, set()),
        ("coherence", set(), {0}),
        ("rank", set(), {0, 2, 3}),
        ("rank+coherence", set(), {0, 2, 3}),
        ("clip+rank+coherence", {0}, {0, 2, 3}),
    ],
)
def test_keys_get_no_gradient_from_the_contrasts(
    loss: str, clip_views: set[int], segment_views: set[int]
) -> None:
    clip, segments, permutation, ids = embeddings()
    objective_of(loss__objective=loss)(clip, segments, permutation, ids).loss.backward()
    for tensor, views in ((clip, clip_views), (segments, segment_views)):
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        assert {v for v in range(4) if gradient[:, v].any()} == views


def test_weights_are_factors_of_the_parts() -> None:
    weights = {"clip": 0.125, "rank": 2.0, "coherence": 0.5}
    clip, segments, permutation, ids = embeddings()
    settings = {f"loss__{part}_weight": weight for part, weight in weights.items()}
    output = objective_of(**settings)(clip, segments, permutation, ids)
    plain = objective_of()(clip, segments, permutation, ids)
    for part in weights:  # logged without their weights
        assert torch.equal(output.metrics[part], plain.metrics[part])
    total = math.fsum(weight * plain.metrics[part].item() for part, weight in weights.items())
    assert output.loss.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("batches", [[3, 3, 3, 3], [7, 7], [1] * 16, [5, 9, 20, 2], [14, 3]])
def test_the_queue_holds_the_newest_keys_whatever_the_batches(batches: list[int]) -> None:
    queue = KeyQueue(torch.full((K, 2), -1.0))
    pushed = [[-1.0, -1.0]] * K
    for count in batches:
        keys = [[float(len(pushed) + i), 0.5] for i in range(count)]
        queue.push(torch.tensor(keys))
        pushed += keys
    oldest = int(queue.position)
    assert torch.roll(queue.keys, -oldest, dims=0).tolist() == pushed[-K:]
    assert oldest == sum(batches) % K


def half_of_the_batch(rank: int, folder: Path, expected: dict[str, Tensor]) -> None:
    """One of two processes, each with half of a batch of 10; checks itself against the whole."""
    with gloo_process(rank, 2, folder):
        objective = objective_of()
        for step in range(2):
            clip, segments, permutation, ids = ten_videos(step)
            mine = slice(5 * rank, 5 * rank + 5)
            rows = clip[mine].requires_grad_()
            output = objective(rows, segments[mine], permutation[mine], ids[mine])
            output.loss.backward()
            loss = output.loss.detach().clone()
            dist.all_reduce(loss)
            torch.testing.assert_close(loss / 2, expected[f"loss{step}"], rtol=1e-12, atol=0)
            assert rows.grad is not None
            # The average over processes halves it, as the mean over twice the rows does.
            truth = expected[f"gradient{step}"][mine]
            torch.testing.assert_close(rows.grad / 2, truth, rtol=1e-9, atol=1e-12)
        for name, queue in objective.state_dict().items():
            if "queue" in name:
                assert torch.equal(queue, expected[name]), name


def ten_videos(seed: int) -> tuple[Tensor, ...]:
    parts = zip(embeddings(2 * seed), embeddings(2 * seed + 1), strict=True)
    return tuple(torch.cat([a.detach(), b.detach()]) for a, b in parts)


def test_two_processes_have_the_losses_gradients_and_queues_of_one(tmp_path: Path) -> None:
    objective, expected = objective_of(), {}
    for step in range(2):
        clip, segments, permutation, ids = ten_videos(step)
        output = objective(clip.requires_grad_(), segments, permutation, ids)
        output.loss.backward()
        assert clip.grad is not None
        expected |= {f"loss{step}": output.loss.detach(), f"gradient{step}": clip.grad}
    expected |= objective.state_dict()
    mp.spawn(half_of_the_batch, (tmp_path, expected), nprocs=2)


def batch_for(config: PretrainConfig, *, count: int = 4) -> ClipBatch:
    """A synthetic batch whose clips lie in memory as the loader's do."""
    torch.manual_seed(9)
    spec = ClipSpec(frames_per_clip=8, frame_stride=1, resize_height=36, resize_width=48,
                    crop_size=32)  # fmt: skip
    videos = torch.arange(count)
    plan = draw_plan(
        spec, seed=0, epoch=0, videos=videos.numpy(), num_frames=(videos * 0 + 20).numpy()
    )
    clips = torch.randn(count, 4, 8, 32, 32, 3).permute(0, 1, 5, 2, 3, 4)
    assert plan.permutation is not None
    return ClipBatch(clips, torch.from_numpy(plan.permutation), videos, videos * 0 - 1, plan)


def test_each_view_goes_through_its_encoder_which_follows_first() -> None:
    config = config_of(moco__momentum=0.75)
    model = create_model(config)
    objective = create_objective(config, model)
    assert isinstance(objective, MoCoObjective)
    old = [weight.clone() for weight in objective.momentum_encoder.parameters()]
    with torch.no_grad():  # as an optimiser would
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.01)
    seen: dict[str, Tensor] = {}
    model.register_forward_pre_hook(lambda _, args: seen.update(query=args[0]))
    objective.momentum_encoder.register_forward_pre_hook(lambda _, args: seen.update(key=args[0]))
    batch = batch_for(config)
    PretrainStep(model, objective, config, choose_execution(config.run))(batch).loss.backward()
    clips = batch.clips
    assert torch.equal(seen["query"].unflatten(0, (4, 3)), clips[:, [0, 2, 3]])
    assert torch.equal(seen["key"], clips[:, 1])
    for images in seen.values():
        assert images.is_contiguous(memory_format=torch.channels_last_3d)
    new = objective.momentum_encoder.parameters()
    for before, after, query in zip(old, new, model.parameters(), strict=True):
        torch.testing.assert_close(after, 0.75 * before + 0.25 * query, rtol=1e-5, atol=1e-7)
        assert after.grad is None
        assert query.grad is not None
    assert not objective.clip_queue.keys.requires_grad


def test_the_momentum_encoder_starts_as_the_network_and_stays_while_that_does() -> None:
    config = config_of()
    model = create_model(config)
    objective = MoCoObjective(config, model)
    objective.follow(model)
    pairs = zip(model.parameters(), objective.momentum_encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)


RUN = {
    "model__framework": "moco",
    "moco__queue_size": 11,  # neither a multiple of the batch nor larger than an epoch
    "data__batch_size": 3,
    "run__checkpoint_every_steps": 4,
}


def test_a_moco_run_trains_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    index = write_index(tmp_path, count=9)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for run in (whole, parted):
        result = invoke(arguments(index, run, **RUN))
        assert result.exit_code == 0, result.output
        assert "model     tiny, 967,887 weights; moco, objective clip+rank+coherence" in (
            result.stderr
        )
    states = [load_checkpoint(path) for path in list_checkpoints(whole / "checkpoints")]
    assert [state["step"] for state in states] == [9, 8, 4]
    objective = states[0]["objective"]
    assert int(objective["clip_queue.position"]) == 27 % 11
    assert objective["segment_queue.keys"].shape == (11, 64)
    # The network's own weights have moved away from the momentum encoder's.
    moved = states[0]["model"]["clip_head.0.weight"]
    assert not torch.equal(moved, objective["momentum_encoder.clip_head.0.weight"])

    for path in list_checkpoints(parted / "checkpoints")[:2]:
        path.unlink()
    result = invoke(["pretrain", str(index), "--run", str(parted), "--resume"])
    assert result.exit_code == 0, result.output
    assert "at step 4 of 9" in result.stderr
    ends = [load_checkpoint(find_checkpoint(run)) for run in (whole, parted)]
    assert differences(*ends) == []
    logs = [[event["loss"] for event in read_log(run, "train")] for run in (whole, parted)]
    assert logs[0] == logs[1]
    network = load_network(parted)
    assert network.config.model.framework == "moco"
    assert torch.equal(network.model.clip_head[0].weight, moved)


def test_a_moco_run_of_two_processes_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    index = write_index(tmp_path, count=8)
    settings = RUN | {"data__batch_size": 4}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    two = ("--gpus", "2", "--device", "cpu")
    for run in (whole, parted):
        if run == parted:  # a copy of the run as it was after four of its six steps
            shutil.copytree(whole, parted)
            list_checkpoints(parted / "checkpoints")[0].unlink()
        process = start(arguments(index, run, *two, "--resume", **settings))
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    assert "at step 4 of 6" in stderr
    ends = [load_checkpoint(find_checkpoint(run)) for run in (whole, parted)]
    assert differences(*ends) == []
    # The queue took the keys of both processes: 6 batches of 4 videos.
    assert int(ends[0]["objective"]["clip_queue.position"]) == 24 % 11
    logs = [[event["loss"] for event in read_log(run, "train")] for run in (whole, parted)]
    assert logs[0] == logs[1]


def test_the_paper_recipe_has_its_queue_and_momentum(tmp_path: Path) -> None:
    args = ["pretrain", "videos", "--run", str(tmp_path / "run"), "--recipe", "paper-moco"]
    result = invoke([*args, "--show-config"])
    assert result.exit_code == 0, result.output
    for line in ('framework = "moco"', "queue_size = 16384", "momentum = 0.999", "epochs = 200"):
        assert line in result.stdout
