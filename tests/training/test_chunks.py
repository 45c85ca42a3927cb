"""Gradients over a batch embedded in chunks are those of the whole batch."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.parts.measure import peak_memory_mib
from fastdual.config import resolve
from fastdual.losses import NTXentLoss
from fastdual.model.dual import create_model
from fastdual.training.chunks import ChunkedEmbeddings, embed_without_graph
from fastdual.training.execution import choose_execution
from fastdual.training.moco import MoCoObjective
from fastdual.training.step import PretrainStep, create_objective
from tests.runs import QUICK, arguments, invoke, read_log, write_index
from tests.training.test_moco import batch_for


def gradients(network: nn.Module) -> list[Tensor | None]:
    return [weight.grad for weight in network.parameters()]


def assert_same_gradients(ours: nn.Module, truth: nn.Module) -> None:
    assert any(gradient is not None for gradient in gradients(truth))
    for a, b in zip(gradients(ours), gradients(truth), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * b.abs().max().item())


def plain_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()


def contrast(embeddings: Tensor) -> Tensor:
    """NT-Xent of [B, 2, D]: every row meets every other, so chunks cannot be taken apart."""
    return NTXentLoss(0.2, backend="eager")(embeddings[:, 0], embeddings[:, 1])


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 7])
def test_without_batch_norm_the_gradient_is_that_of_one_pass(num_chunks: int) -> None:
    ours, truth = plain_network(), plain_network()
    inputs = torch.randn(7, 2, 6, dtype=torch.float64)
    chunked = ChunkedEmbeddings(lambda x: (ours(x),), ours, inputs, num_chunks=num_chunks)
    loss = contrast(*chunked.embeddings)
    loss.backward()
    chunked.backward()
    expected = contrast(truth(inputs))
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert_same_gradients(ours, truth)


def test_averaged_gradients_of_small_batches_would_be_noticed() -> None:
    ours, truth = plain_network(), plain_network()
    inputs = torch.randn(6, 2, 6, dtype=torch.float64)
    for chunk in inputs.chunk(3):
        (contrast(ours(chunk)) / 3).backward()
    contrast(truth(inputs)).backward()
    with pytest.raises(AssertionError, match="not close"):
        assert_same_gradients(ours, truth)


def test_an_output_that_no_loss_uses_leaves_its_weights_without_a_gradient() -> None:
    heads = nn.ModuleList([plain_network(), plain_network()])
    inputs = torch.randn(5, 2, 6, dtype=torch.float64)
    chunked = ChunkedEmbeddings(lambda x: (heads[0](x), heads[1](x)), heads, inputs, num_chunks=2)
    contrast(chunked.embeddings[0]).backward()
    chunked.backward()
    assert all(gradient is not None for gradient in gradients(heads[0]))
    assert gradients(heads[1]) == [None] * 4


def test_with_batch_norm_each_chunk_has_its_own_statistics_noted_once() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5)).double()
    truth = copy.deepcopy(ours)
    inputs = torch.randn(7, 2, 6, dtype=torch.float64)

    def embed(network: nn.Module, x: Tensor) -> tuple[Tensor]:
        return (network(x.flatten(0, 1)).unflatten(0, x.shape[:2]),)

    chunked = ChunkedEmbeddings(lambda x: embed(ours, x), ours, inputs, num_chunks=3)
    contrast(*chunked.embeddings).backward()
    chunked.backward()
    parts = [embed(truth, chunk)[0] for chunk in inputs.tensor_split(3)]
    contrast(torch.cat(parts)).backward()
    assert_same_gradients(ours, truth)
    for a, b in zip(ours.buffers(), truth.buffers(), strict=True):
        assert torch.equal(a, b)
    assert int(ours[1].num_batches_tracked) == 3


def test_embedding_without_a_graph_is_the_same_in_chunks() -> None:
    network, inputs = plain_network(), torch.randn(5, 2, 6, dtype=torch.float64)
    parts = embed_without_graph(lambda x: (network(x), x), inputs, num_chunks=2)
    torch.testing.assert_close(parts[0], network(inputs).detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(parts[1], inputs)
    assert not parts[0].requires_grad


@pytest.mark.parametrize("framework", ["simclr", "moco"])
def test_a_step_in_chunks_has_the_loss_and_gradient_of_a_step_in_one(framework: str) -> None:
    """In evaluation mode, where batch norm is a fixed map, the two steps must agree."""
    values = {**QUICK, "model.framework": framework, "moco.queue_size": 9}
    config = resolve([], [f"{key}={value}" for key, value in values.items()]).config
    batch, models, losses, queues = batch_for(config, count=3), [], [], []
    for num_chunks in (1, 2, 100):
        torch.manual_seed(2)
        model = create_model(config)
        objective = create_objective(config, model)
        model.eval()
        objective.eval()
        optimiser = replace(config.optimiser, accumulate_chunks=num_chunks)
        chunked = replace(config, optimiser=optimiser)
        step = PretrainStep(model, objective, chunked, choose_execution(config.run))
        output = step(batch)
        output.backward()
        models.append(model)
        losses.append(output.loss.detach())
        if isinstance(objective, MoCoObjective):
            queues.append(objective.clip_queue.keys)
    for model, loss in zip(models[1:], losses[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=1e-6)
        for a, b in zip(gradients(model), gradients(models[0]), strict=True):
            assert a is not None
            assert b is not None
            # float32 through a deep network: convolutions of other batch sizes round otherwise
            assert (a - b).norm() <= 1e-4 * b.norm() + 1e-7
    for queue in queues[1:]:
        torch.testing.assert_close(queue, queues[0], rtol=1e-5, atol=1e-6)


def test_a_step_in_chunks_takes_the_memory_of_one() -> None:
    """So that the batch may grow with its chunks, on the memory there is."""
    config = resolve([], [f"{key}={value}" for key, value in QUICK.items()]).config
    peaks = {}
    for videos, num_chunks in ((2, 1), (16, 1), (16, 8)):
        batch, model = batch_for(config, count=videos), create_model(config)
        optimiser = replace(config.optimiser, accumulate_chunks=num_chunks)
        chunked = replace(config, optimiser=optimiser)
        objective = create_objective(config, model)
        step = PretrainStep(model, objective, chunked, choose_execution(config.run))
        step(batch).backward()  # gradients of the weights are there from now on
        run = partial(lambda step, batch: step(batch).backward(), step, batch)
        peaks[videos, num_chunks] = peak_memory_mib(run, torch.device("cpu"))
    assert peaks[16, 1] > 5 * peaks[2, 1], peaks
    assert peaks[16, 8] < 1.5 * peaks[2, 1], peaks


def test_a_run_in_chunks_trains(tmp_path: Path) -> None:
    index = write_index(tmp_path, count=4)
    settings = {
        "optimiser__accumulate_chunks": 2,
        "schedule__epochs": 1,
        "schedule__milestones": "[]",
    }
    result = invoke(arguments(index, tmp_path / "run", **settings))
    assert result.exit_code == 0, result.output
    assert len(read_log(tmp_path / "run", "train")) == 1
    refused = invoke(arguments(index, tmp_path / "no", optimiser__accumulate_chunks=0))
    assert refused.exit_code == 2
    assert "optimiser.accumulate_chunks = 0: must be at least 1" in refused.stderr
