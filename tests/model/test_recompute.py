"""Activations that are computed again: the same gradients and statistics, less memory."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.parts.measure import peak_memory_mib
from fastdual.backbones import create_backbone
from fastdual.errors import InputError
from fastdual.model.recompute import recompute_activations
from tests.runs import arguments, differences, invoke, read_log, write_index

CLIP = (8, 32, 32)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, clip_shape=CLIP)


@pytest.mark.parametrize("name", ["tiny", "s3d-g", "r2plus1d-18"])
def test_gradients_and_statistics_are_those_of_a_plain_network(name: str) -> None:
    plain, ours = make(name), make(name)
    recompute_activations(ours)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        clips = torch.randn(2, 3, *CLIP, generator=generator)
        outputs = [network(clips) for network in (plain, ours)]
        assert torch.equal(*outputs)
        for output in outputs:
            output.square().sum().backward()
    gradients = ({n: w.grad for n, w in network.named_parameters()} for network in (plain, ours))
    assert differences(*gradients) == []
    # Each batch is noted once in batch norm's statistics, although it passes twice.
    assert differences(dict(ours.state_dict()), dict(plain.state_dict())) == []
    with torch.no_grad():
        assert torch.equal(ours.eval()(clips), plain.eval()(clips))


def test_it_takes_less_memory() -> None:
    peaks = []
    for recompute in (False, True):
        network, clips = make("s3d"), torch.randn(2, 3, 8, 64, 64)
        if recompute:
            recompute_activations(network)

        def step(network: nn.Module = network, clips: torch.Tensor = clips) -> None:
            network(clips).sum().backward()

        step()
        peaks.append(peak_memory_mib(step, torch.device("cpu")))
    assert peaks[1] < 0.75 * peaks[0], peaks


def test_a_run_takes_the_same_steps_and_refuses_what_does_not_go_together(tmp_path: Path) -> None:
    index = write_index(tmp_path, count=4)
    losses = []
    for recompute in ("off", "on"):
        run = tmp_path / recompute
        settings = {"run__recompute_activations": recompute, "schedule__milestones": "[]"}
        result = invoke(arguments(index, run, schedule__epochs=2, **settings))
        assert result.exit_code == 0, result.output
        assert ("activations computed twice" in result.stderr) == (recompute == "on")
        losses.append([event["loss"] for event in read_log(run, "train")])
    assert losses[0] == losses[1]
    settings = {"run__recompute_activations": "on", "run__compile": "cuda-graphs"}
    result = invoke(arguments(index, tmp_path / "other", **settings))
    assert result.exit_code == 2
    assert "run.compile = 'cuda-graphs': a compiled network decides itself" in result.stderr


def test_networks_without_stages_refuse() -> None:
    with pytest.raises(InputError, match="no stages of several convolutions"):
        recompute_activations(create_backbone("c3d"))
