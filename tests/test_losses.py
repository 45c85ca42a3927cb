"""The loss modules: temperatures, ids and groups, autocast, and what importing them needs."""

import subprocess
import sys
import textwrap
from fractions import Fraction
from inspect import signature

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from fastdual import functional, losses
from fastdual.losses import (
    ClipLoss,
    ContrastiveLoss,
    NTXentLoss,
    ShuffleRankLoss,
    SupConLoss,
    TemporalCoherenceLoss,
)
from tests.embeddings import BACKENDS, unit

NUMBERS = [np.float32(0.5), np.float64(0.5), np.array(0.5), Fraction(1, 2)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_temperature_is_any_real_number(number: object, backend: str) -> None:
    first, second = unit(2, 6, 2, 8)
    order = torch.tensor([[1, 0]]).repeat(6, 1)
    rows, others, ids = first[:, 0], second[:, 0], torch.arange(6) // 2

    def all_losses(value: object) -> list[Tensor]:
        options = {"temperature": value, "backend": backend}
        return [
            NTXentLoss(**options)(rows, others),
            SupConLoss(**options)(rows, ids),
            ContrastiveLoss(**options)(rows, others, ids, ids),
            ClipLoss(backend=backend)(rows, others, value),
            TemporalCoherenceLoss(**options)(first, second),
            ShuffleRankLoss(**options, clip=value)(first, second, order),
            functional.contrastive_loss(rows, others, ids, ids, **options),
            functional.shuffle_rank_loss(first, second, order, **options, clip=value),
            functional.two_view_contrast(rows, others, **options).loss,
            functional.temporal_coherence_loss_with_metrics(first, second, **options).loss,
            functional.supcon_loss(rows, ids, **options),
        ]

    for ours, expected in zip(all_losses(number), all_losses(0.5), strict=True):
        assert torch.equal(ours, expected)


def test_a_numpy_number_compiles_in_a_module() -> None:
    loss = NTXentLoss(np.float64(0.5))
    views = unit(2, 6, 8)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*views), NTXentLoss(0.5)(*views))


def test_a_temperature_without_gradient_may_change_without_compiling_anew() -> None:
    torch._dynamo.reset()
    loss = NTXentLoss(torch.tensor(0.5))
    views = unit(2, 6, 8)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for value in (0.5, 0.4, 0.3):
        loss.temperature.fill_(value)
        torch.testing.assert_close(compiled(*views), NTXentLoss(value)(*views))
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_queue_entries_are_negatives_alone(backend: str) -> None:
    """MoCo: the key of the other encoder is positive, a queue of id -1 negative."""
    query, key, queue = unit(5, 8), unit(5, 8, seed=1), unit(16, 8, seed=2)
    ids = torch.arange(5)
    ours = [
        ContrastiveLoss(0.1, backend=backend)(
            query[i : i + 1],
            torch.cat([key[i : i + 1], queue]),
            ids[i : i + 1],
            torch.cat([ids[i : i + 1], torch.full((16,), -1)]),
        )
        for i in range(5)
    ]
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / 0.1
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(torch.stack(ours).mean(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions(backend: str, reduction: str) -> None:
    query, key = unit(4, 8), unit(6, 8, seed=1)
    query_ids, key_ids = torch.tensor([0, 1, 2, 9]), torch.arange(6)
    ours = ContrastiveLoss(0.2, reduction=reduction, backend=backend)(
        query, key, query_ids, key_ids
    )
    rows = F.cross_entropy(query @ key.T / 0.2, torch.tensor([0, 1, 2, 0]), reduction="none")
    rows[3] = 0  # no key has id 9
    expected = {"mean": rows.sum() / 3, "sum": rows.sum(), "none": rows}[reduction]
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_temperature_is_learned_when_it_is_a_parameter(backend: str) -> None:
    loss = NTXentLoss(nn.Parameter(torch.tensor(0.3, dtype=torch.float64)), backend=backend)
    views = unit(2, 6, 8)
    assert [name for name, _ in loss.named_parameters()] == ["temperature"]
    loss(*views).backward()
    step = 1e-6
    up, down = (NTXentLoss(0.3 + s, backend=backend)(*views) for s in (step, -step))
    assert loss.temperature.grad.item() == pytest.approx((up - down).item() / (2 * step), rel=1e-6)


def test_an_annealed_temperature_moves_with_its_loss_and_is_part_of_its_state() -> None:
    loss = NTXentLoss(torch.tensor(0.5))
    both = losses.DualVarianceLoss(clip_temperature=torch.tensor(0.5), coherence_temperature=0.2)
    assert [*loss.state_dict()] == ["temperature"] and [*both.state_dict()] == ["clip_temperature"]
    moved = loss.to("meta")
    assert moved.temperature.is_meta and not [*moved.parameters()]
    assert moved(*torch.ones(2, 4, 8, device="meta")).is_meta


def test_eager_can_be_differentiated_twice() -> None:
    first, second = unit(2, 4, 6)
    assert torch.autograd.gradgradcheck(
        NTXentLoss(0.5, backend="eager"), (first.requires_grad_(), second.requires_grad_())
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_clip_is_called_as_open_clips_trainer_does(backend: str) -> None:
    image, text = unit(2, 4, 8)
    loss = ClipLoss(backend=backend)
    output = {"image_features": image, "text_features": text, "logit_scale": torch.tensor(9.0)}
    found = loss(**output, output_dict=True)
    assert list(found) == ["contrastive_loss"]
    assert torch.equal(found["contrastive_loss"], loss(image, text, torch.tensor(9.0)))


def test_importing_the_losses_needs_torch_alone() -> None:
    script = textwrap.dedent("""
        import sys
        blocked = {"triton", "nvidia.dali", "av", "h5py", "click", "rich", "scipy", "sklearn",
                   "matplotlib", "tensorboard", "safetensors"}
        sys.modules.update(dict.fromkeys(blocked))  # None: an import of it fails
        import torch
        from fastdual.losses import DualVarianceLoss, NTXentLoss
        loss = NTXentLoss()(*torch.randn(2, 5, 8, requires_grad=True))
        loss.backward()
        clip, segments = torch.randn(3, 4, 8), torch.randn(3, 4, 2, 8)
        DualVarianceLoss()(clip, segments, torch.arange(2).expand(3, 2), torch.arange(3))
        print(float(loss))
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def test_a_printed_loss_shows_its_settings() -> None:
    learned = torch.nn.Parameter(torch.tensor(0.25))
    assert repr(losses.NTXentLoss(0.3)) == (
        "NTXentLoss(temperature=0.3, normalize=True, backend='auto', gather=None)"
    )
    assert "temperature=0.25 (learned), positives='mean'" in repr(
        losses.ContrastiveLoss(learned, positives="mean")
    )
    for name in losses.__all__:
        loss = getattr(losses, name)
        if isinstance(loss, type) and issubclass(loss, torch.nn.Module):
            printed = repr(loss())
            known = {*signature(loss).parameters} - {"settings"}
            assert all(f"{word}=" in printed for word in known), printed
    printed = repr(losses.DualVarianceLoss("clip+rank", clip_temperature=learned, rank_weight=2))
    assert all(f"{word}=" in printed for word in losses.DualVarianceSettings._fields), printed
    assert "objective='clip+rank'" in printed and "clip_temperature=0.25 (learned)" in printed
