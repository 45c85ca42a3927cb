"""The loss modules: the paper's numbers, ids and groups, errors, processes, training."""

import itertools
import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import multiprocessing as mp
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fastdual import functional
from fastdual.losses import (
    ClipLoss,
    ContrastiveLoss,
    DualVarianceLoss,
    DualVarianceResult,
    NTXentLoss,
    ShuffleRankLoss,
    SupConLoss,
    TemporalCoherenceLoss,
)

BACKENDS = ["auto", "eager"]


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


def dual_inputs(
    batch: int, segments: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of DualVarianceLoss: clip, segments, permutation, video ids."""
    clip = unit(batch, 4, 12, seed=seed, dtype=dtype)
    parts = unit(batch, 4, segments, 8, seed=seed + 1, dtype=dtype)
    generator = torch.Generator().manual_seed(seed + 2)
    permutation = torch.rand(batch, segments, generator=generator).argsort(dim=1)
    return clip, parts, permutation, torch.arange(batch)


def recorded(golden: Path, prefix: str) -> dict[str, Tensor]:
    with np.load(golden / "losses.npz") as file:
        return {
            name.removeprefix(prefix): torch.from_numpy(file[name])
            for name in file.files
            if name.startswith(prefix)
        }


# ------------------------------------------------------------------------------- the paper's loss
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", range(5))
def test_clip_contrast_matches_the_research_code(golden: Path, case: int, backend: str) -> None:
    wanted = recorded(golden, f"clip{case}_")
    x = wanted["x"].requires_grad_()
    result = functional.two_view_contrast(x[:, 0], x[:, 1], temperature=0.07, backend=backend)
    (grad,) = torch.autograd.grad(result.loss, x)
    assert abs(result.loss.item() - wanted["loss"].item()) < 1e-9
    assert (grad - wanted["grad"]).abs().max() < 1e-9
    assert result.top1.double().mean().item() == pytest.approx(wanted["top1"].item(), abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", range(5))
def test_temporal_coherence_matches_the_research_code(
    golden: Path, case: int, backend: str
) -> None:
    wanted = recorded(golden, f"tc{case}_")
    x = wanted["x"].requires_grad_()
    loss = TemporalCoherenceLoss(backend=backend)(x[:, 0], x[:, 1])
    (grad,) = torch.autograd.grad(loss, x)
    assert abs(loss.item() - wanted["loss"].item()) < 1e-9
    assert (grad - wanted["grad"]).abs().max() < 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
def test_total_is_the_sum_of_the_paper(backend: str) -> None:
    clip, parts, permutation, ids = dual_inputs(6, 3)
    result = DualVarianceLoss(backend=backend)(clip, parts, permutation, ids)
    contrast = NTXentLoss(0.07, normalize=False)(clip[:, 0], clip[:, 1])
    coherence = TemporalCoherenceLoss(0.07)(parts[:, 0], parts[:, 1])
    rank = ShuffleRankLoss(0.05)
    ranks = [rank(parts[:, view], parts[:, 3], permutation) for view in (0, 2)]
    torch.testing.assert_close(result.clip, contrast)
    torch.testing.assert_close(result.coherence, coherence)
    torch.testing.assert_close(result.rank, sum(ranks) / 2)
    torch.testing.assert_close(result.total, contrast + coherence + sum(ranks) / 2)
    assert 0 <= result.clip_top1 <= result.clip_top5 <= 1
    assert all(part.ndim == 0 for part in result)


def test_backends_agree_on_every_part_and_gradient() -> None:
    outcomes = []
    for backend in BACKENDS:
        clip, parts, *others = dual_inputs(9, 4)
        clip, parts = clip.requires_grad_(), parts.requires_grad_()
        result = DualVarianceLoss(backend=backend)(clip, parts, *others)
        grads = torch.autograd.grad(result.total, (clip, parts))
        outcomes.append((*result, *grads))
    for ours, eager in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("objective", "present"),
    [
        ("clip", {"clip"}),
        ("clip+rank", {"clip", "rank"}),
        ("clip+rank+coherence", {"clip", "rank", "coherence"}),
    ],
)
def test_objective_names_the_parts_of_the_total(objective: str, present: set[str]) -> None:
    inputs = dual_inputs(6, 3)
    whole = DualVarianceLoss()(*inputs)
    result = DualVarianceLoss(objective=objective)(*inputs)
    kept = {
        name: value for name, value in whole.measured().items() if name.split("_")[0] in present
    }
    assert result.measured() == kept
    absent = {"clip", "rank", "coherence"} - present
    assert all(getattr(result, part) is None for part in absent)
    assert result.total.item() == pytest.approx(sum(getattr(whole, p).item() for p in present))


def test_clip_objective_needs_two_views_and_one_segment() -> None:
    clip, parts, _, ids = dual_inputs(5, 1)
    result = DualVarianceLoss(objective="clip")(clip[:, :2], parts[:, :2], torch.zeros(5, 1), ids)
    assert torch.isfinite(result.total)


def test_a_video_twice_in_the_batch_is_no_negative_of_itself() -> None:
    """Rows of one video are the same vector: as negatives they would cost log 3 a row."""
    clip, parts, permutation, ids = dual_inputs(4, 2)
    clip[:, :2] = torch.eye(12, dtype=torch.float64)[[0, 0, 1, 2]][:, None]
    apart = DualVarianceLoss(clip_temperature=0.01)(clip, parts, permutation, ids)
    ids = torch.tensor([7, 7, 3, 4])
    together = DualVarianceLoss(clip_temperature=0.01)(clip, parts, permutation, ids)
    assert apart.clip.item() == pytest.approx(math.log(3) / 2)
    assert together.clip.item() == pytest.approx(0, abs=1e-12)
    assert together.clip_top1 == 1


def test_one_video_gives_a_finite_loss() -> None:
    inputs = dual_inputs(1, 2)
    result = DualVarianceLoss()(inputs[0].requires_grad_(), *inputs[1:])
    result.total.backward()
    assert result.clip.item() == 0
    assert torch.isfinite(inputs[0].grad).all()


def test_half_precision_embeddings_give_a_float32_loss() -> None:
    inputs = dual_inputs(8, 2, dtype=torch.bfloat16)
    result = DualVarianceLoss()(*inputs)
    exact = DualVarianceLoss()(inputs[0].double(), inputs[1].double(), *inputs[2:])
    assert result.total.dtype == torch.float32
    # Segment means are rounded to bfloat16 (2^-9) and divided by a temperature of 0.07.
    assert result.total.item() == pytest.approx(exact.total.item(), abs=0.03)


def test_compiles_as_one_graph() -> None:
    inputs = dual_inputs(5, 2, dtype=torch.float32)
    loss = DualVarianceLoss()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(compiled(*inputs), loss(*inputs), strict=True):
        torch.testing.assert_close(ours, expected)


# ------------------------------------------------------------------------------- in others' loops
class Call(NamedTuple):
    """A loss, and its arguments for so many samples: the first one is to be differentiated."""

    loss: Callable[..., Tensor]
    arguments: Callable[[int], tuple[Tensor, ...]]

    def on(self, batch: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """As a function of its first argument, and that."""
        first, *others = self.arguments(batch)
        return lambda x: self.loss(x, *others), first


def calls_of_losses(backend: str) -> dict[str, Call]:
    options = {"backend": backend}

    def rows(batch: int) -> tuple[Tensor, ...]:
        return unit(batch, 16), unit(batch, 16, seed=1)

    def segments(batch: int) -> tuple[Tensor, ...]:
        return unit(batch, 2, 8), unit(batch, 2, 8, seed=1)

    def order(batch: int) -> Tensor:
        return torch.tensor([[1, 0]]).repeat(batch, 1)

    def total(clip: Tensor, *others: Tensor) -> Tensor:
        return DualVarianceLoss(**options)(clip, *others).total

    return {
        "NT-Xent": Call(NTXentLoss(**options), rows),
        "SupCon": Call(SupConLoss(**options), lambda b: (unit(b, 16), torch.arange(b) // 2)),
        "CLIP": Call(ClipLoss(**options), lambda b: (*rows(b), torch.tensor(9.0))),
        "coherence": Call(TemporalCoherenceLoss(**options), segments),
        "segments": Call(TemporalCoherenceLoss(form="segments", **options), segments),
        "rank": Call(ShuffleRankLoss(**options), lambda b: (*segments(b), order(b))),
        "dual": Call(
            total, lambda b: (unit(b, 4, 8), unit(b, 4, 2, 8, seed=1), order(b), torch.arange(b))
        ),
    }


NAMES = ["NT-Xent", "coherence", "segments", "rank", "CLIP", "SupCon", "dual"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_batches_of_any_size_compile_once_more_at_most(name: str, backend: str) -> None:
    torch._dynamo.reset()
    loss, arguments = calls_of_losses(backend)[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for batch in (8, 12, 6, 33, 7):
        x, *others = arguments(batch)
        x.requires_grad_()
        outcomes = []
        for function in (compiled, loss):
            value = function(x, *others)
            outcomes.append((value, *torch.autograd.grad(value, x)))
        torch.testing.assert_close(*outcomes)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_activation_checkpointing_changes_nothing(name: str, reentrant: bool, backend: str) -> None:
    loss, x = calls_of_losses(backend)[name].on(6)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    checkpoint(loss, x, use_reentrant=reentrant).backward()
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("name", NAMES)
def test_transforms_of_torch_func_are_refused_and_eager_takes_them(name: str) -> None:
    """Forward mode would otherwise find a derivative of 0 and say nothing."""
    ours, x = calls_of_losses("auto")[name].on(6)
    eager, _ = calls_of_losses("eager")[name].on(6)
    direction = torch.ones_like(x)

    def directional(loss: Callable[[Tensor], Tensor]) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(loss(forward_ad.make_dual(x, direction))).tangent

    for transformed in (
        lambda loss: torch.func.grad(loss)(x),
        lambda loss: torch.func.jvp(loss, (x,), (direction,))[1],
        directional,
    ):
        with pytest.raises(RuntimeError, match="torch.func .* nor differentiated in forward mode"):
            transformed(ours)
        assert torch.isfinite(transformed(eager)).all()
    with pytest.raises(RuntimeError, match="use torch.autograd, or backend='eager'"):
        torch.vmap(ours)(torch.stack([x, x]))


# ------------------------------------------------------------------------------------ temperature
NUMBERS = [np.float32(0.5), np.float64(0.5), np.array(0.5), Fraction(1, 2)]
NO_NUMBERS = [0, -0.5, math.nan, math.inf, np.float32(-1), True, np.True_, "0.5", None, [0.5], 1j]
NO_NUMBERS += [np.array([0.5]), 10**400]


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


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:20])
def test_what_is_no_temperature_is_refused(value: object) -> None:
    """Where a module is made, and where a function is called."""
    message = re.escape(f"temperature is {value!r}, must be a finite number above 0")
    rows, ids = unit(4, 8), torch.arange(4)
    for call in (
        lambda: NTXentLoss(value),
        lambda: SupConLoss(value),
        lambda: ContrastiveLoss(value),
        lambda: TemporalCoherenceLoss(value),
        lambda: ShuffleRankLoss(value),
        lambda: DualVarianceLoss(rank_temperature=value),
        lambda: functional.contrastive_loss(rows, rows, ids, ids, temperature=value),
        lambda: functional.contrastive_loss(
            rows, rows, ids, ids, temperature=value, backend="eager"
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


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


# --------------------------------------------------------------------------------- ids and groups
@pytest.mark.parametrize("positives", ["sum", "mean"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_segment_form_is_its_definition(backend: str, positives: str) -> None:
    batch, num_segments, temperature = 3, 2, 0.3
    first, second = unit(2, batch, num_segments, 5)
    ours = TemporalCoherenceLoss(
        temperature, form="segments", positives=positives, backend=backend
    )(first, second)
    rows = list(itertools.product((0, 1), range(batch), range(num_segments)))
    views = torch.stack([first, second])
    losses = []
    for view, video, segment in rows:
        logits = {
            other: (views[view, video, segment] @ views[other] / temperature).item()
            for other in rows
            if other[:2] != (view, video)  # its own clip is ignored
        }
        own_video = [logit for other, logit in logits.items() if other[1] == video]
        everything = math.log(sum(map(math.exp, logits.values())))
        if positives == "sum":
            losses.append(everything - math.log(sum(map(math.exp, own_video))))
        else:
            losses.append(everything - sum(own_video) / len(own_video))
    assert ours.item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_mean_form_is_the_mean_of_all_segment_pairs() -> None:
    first, second = unit(2, 4, 3, 6)
    similarity = torch.einsum("asd,btd->abst", *[torch.cat([first, second])] * 2).mean(dim=(2, 3))
    logits = (similarity / 0.07).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(logits, (torch.arange(8) + 4) % 8)
    torch.testing.assert_close(TemporalCoherenceLoss()(first, second), expected)


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


def test_eager_can_be_differentiated_twice() -> None:
    first, second = unit(2, 4, 6)
    assert torch.autograd.gradgradcheck(
        NTXentLoss(0.5, backend="eager"), (first.requires_grad_(), second.requires_grad_())
    )


# ----------------------------------------------------------------------------------------- errors
def elsewhere(*shape: int) -> tuple[Tensor, Tensor]:
    """Two views, the second on another device."""
    return unit(*shape), torch.empty(shape, device="meta", dtype=torch.float64)


def wrong_permutation() -> list[Tensor]:
    clip, segments, permutation, ids = dual_inputs(4, 2)
    return [clip, segments, permutation[:3], ids]


def four_rows() -> list[Tensor]:
    rows, ids = unit(4, 8), torch.arange(4)
    return [rows, rows, ids, ids]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key_dtype", [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing_but_takes_mixed_dtypes(
    backend: str, key_dtype: torch.dtype
) -> None:
    """A bf16 network against a float32 queue, as torch's own losses would take them."""
    query, key = unit(4, 8).bfloat16(), unit(6, 8, seed=1).to(key_dtype)
    query_ids, key_ids = torch.arange(4), torch.arange(6)
    loss = ContrastiveLoss(0.2, backend=backend)
    wide = (query.float(), key.float()) if key_dtype == torch.float32 else (query, key)
    expected = loss(*wide, query_ids, key_ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(query, key, query_ids, key_ids), expected)
    assert expected.dtype == torch.float32
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="key has dtype torch.int64"),
    ):
        loss(query, key.long(), query_ids, key_ids)
    if key_dtype == torch.float32:
        with pytest.raises(ValueError, match="key has dtype torch.float32 but query has"):
            loss(query, key, query_ids, key_ids)


@pytest.mark.parametrize("backend", BACKENDS)
def test_clip_is_called_as_open_clips_trainer_does(backend: str) -> None:
    image, text = unit(2, 4, 8)
    loss = ClipLoss(backend=backend)
    output = {"image_features": image, "text_features": text, "logit_scale": torch.tensor(9.0)}
    found = loss(**output, output_dict=True)
    assert list(found) == ["contrastive_loss"]
    assert torch.equal(found["contrastive_loss"], loss(image, text, torch.tensor(9.0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NTXentLoss(0.0)(*unit(2, 4, 8)), "temperature is 0.0, must be a finite number"),
        (lambda: NTXentLoss()(unit(4, 8), unit(5, 8)), r"second has shape \[5, 8\] but first has"),
        (lambda: NTXentLoss(backend="cuda")(*unit(2, 4, 8)), "backend is 'cuda', must be one of"),
        (lambda: NTXentLoss(backend="fused")(*unit(2, 4, 8)), "backend is 'fused' but embeddings"),
        (lambda: NTXentLoss(gather="some")(*unit(2, 4, 8)), "gather is 'some', must be one of"),
        (lambda: NTXentLoss(gather="some", backend="eager")(*unit(2, 4, 8)), "gather is 'some'"),
        (lambda: SupConLoss()(unit(4, 8), torch.arange(3)), r"labels has shape \[3\]"),
        (lambda: SupConLoss()(unit(4, 8), torch.ones(4)), "labels has dtype torch.float32"),
        (lambda: SupConLoss()(torch.ones(4, 8).long(), torch.arange(4)), "embeddings has dtype"),
        (lambda: ClipLoss()(unit(4, 8), unit(4, 9), 10.0), r"text has shape \[4, 9\] but image"),
        (lambda: ClipLoss()(*unit(2, 4, 8), -1.0), "logit_scale is -1.0, must be a finite"),
        (lambda: TemporalCoherenceLoss(form="max")(*unit(2, 4, 2, 8)), "form is 'max', must be"),
        (lambda: TemporalCoherenceLoss()(*unit(2, 4, 8)), r"first has shape \[4, 8\], must be"),
        (lambda: DualVarianceLoss()(*dual_inputs(4, 1)), "S = 1 .*rank undefined"),
        (lambda: DualVarianceLoss(objective="rank")(*dual_inputs(4, 2)), "objective is 'rank'"),
        (lambda: DualVarianceLoss()(unit(4, 3, 8), *dual_inputs(4, 2)[1:]), "V >= 4"),
        (lambda: DualVarianceLoss()(unit(5, 4, 8), *dual_inputs(4, 2)[1:]), "segments has shape"),
        (lambda: DualVarianceLoss()(*dual_inputs(4, 2)[:3], torch.arange(3)), "video_ids has sh"),
        (lambda: DualVarianceLoss()(*dual_inputs(4, 2)[:3], torch.ones(4)), "video_ids has dtype"),
        (lambda: DualVarianceLoss()(*dual_inputs(4, 2)[:3], [1, 2, 3, 4]), "video_ids is a list"),
        (lambda: DualVarianceLoss(clip_temperature=-0.1)(*dual_inputs(4, 2)), "^clip_temperature "),
        (lambda: DualVarianceLoss(rank_temperature=0)(*dual_inputs(4, 2)), "^rank_temperature is"),
        (lambda: DualVarianceLoss()(*wrong_permutation()), r"permutation has shape \[3, 2\], must"),
        (lambda: TemporalCoherenceLoss(-0.1)(*unit(2, 4, 2, 8)), "temperature is -0.1, must"),
        (lambda: TemporalCoherenceLoss("a")(*unit(2, 4, 2, 8)), "temperature is 'a', must"),
        (lambda: TemporalCoherenceLoss()(*elsewhere(4, 2, 8)), "second is on meta but first is on"),
        (lambda: TemporalCoherenceLoss(form="segments")(*elsewhere(4, 2, 8)), "second is on meta"),
        (lambda: NTXentLoss()(*elsewhere(4, 8)), "second is on meta but first is on cpu"),
        (lambda: NTXentLoss()(unit(4, 8), unit(4, 8).half()), "second has dtype torch.float16 but"),
        (lambda: NTXentLoss()(*torch.ones(2, 4, 8).long()), "first has dtype torch.int64"),
        (lambda: SupConLoss()(unit(4, 8).to_sparse(), torch.arange(4)), "embeddings has layout to"),
        (
            lambda: NTXentLoss()(*unit(2, 4, 8), [0, 1, 2, 3]),
            "ids is a list, must be an int64 or in",
        ),
        (lambda: ShuffleRankLoss(clip=True), "clip is True, must be None or a finite number"),
        (lambda: DualVarianceLoss(rank_clip="a"), "rank_clip is 'a', must be None or a finite nu"),
        (lambda: NTXentLoss()(*unit(2, 4, 2000)), "first has D = 2000, must be between"),
        (lambda: NTXentLoss()(*unit(2, 4, 2, 8)), r"first has shape \[4, 2, 8\], must be \[B, D\]"),
        (lambda: NTXentLoss()([[1.0]], [[1.0]]), "first is a list, must be a tensor"),
        (lambda: NTXentLoss()(*unit(2, 0, 8)), r"first has shape \[0, 8\], no axis may be empty"),
        (lambda: ClipLoss()(*unit(2, 0, 8), 10.0), r"image has shape \[0, 8\], no axis may be"),
        (lambda: TemporalCoherenceLoss()(*unit(2, 4, 0, 8)), r"first has shape \[4, 0, 8\], no ax"),
        (
            lambda: DualVarianceLoss()(*dual_inputs(4, 2)[:2], [[0, 1]], torch.arange(4)),
            "permutation is of list, must be an int64 or int32 tensor",
        ),
        (lambda: SupConLoss()(unit(4, 8), torch.arange(4, device="meta")), "labels is on meta"),
        (lambda: ClipLoss()(*elsewhere(4, 8), 10.0), "text is on meta but image is on cpu"),
        (lambda: ClipLoss()(*unit(2, 4, 8), "a"), "logit_scale is 'a', must be a finite number"),
        (lambda: ClipLoss()(*unit(2, 4, 8), torch.ones(2)), "logit_scale is a tensor of shape"),
        (lambda: ClipLoss()(*unit(2, 4, 8), math.inf), "logit_scale is inf, must be a finite"),
        (lambda: ContrastiveLoss(precision="fp8")(*four_rows()), "precision is 'fp8', must be one"),
    ],
)
def test_bad_argument_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------------------------------- imports
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


# -------------------------------------------------------------------------------------- processes
WORLD = 2
VARIANTS = [("auto", "all"), ("auto", "ring"), ("eager", "all"), ("eager", "ring")]


def gathered_worker(rank: int, store: str, results: str) -> None:
    """Its half of the batch; losses and gradients averaged as DistributedDataParallel does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD
    )
    outcomes = []
    for backend, gather in VARIANTS:
        # A linear encoder's weight takes the place of a model: it is what DDP would average.
        weight = torch.eye(12).requires_grad_()
        inputs = [x.chunk(WORLD)[rank] for x in gathered_batch()]
        losses = gathered_losses(weight, *inputs, backend=backend, gather=gather)
        (grad,) = torch.autograd.grad(losses.sum(), weight)
        summed = torch.cat([losses.detach(), grad.flatten()])
        torch.distributed.all_reduce(summed)
        outcomes.append(summed / WORLD)
    uneven = [x[: 4 - rank] for x in gathered_batch()]
    for backend, gather in VARIANTS:
        with pytest.raises(ValueError, match=r"key has shapes .* on the processes, must be one sh"):
            gathered_losses(weight, *uneven, backend=backend, gather=gather)
    if rank == 0:
        torch.save(outcomes, results)
    torch.distributed.barrier()  # gloo aborts a process whose peer has gone while it still talks
    torch.distributed.destroy_process_group()


def gathered_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    clip, parts, permutation, ids = dual_inputs(8, 2, dtype=torch.float32)
    ids[6] = ids[1]  # one video on both processes
    return clip, parts, permutation, ids


def gathered_losses(
    weight: Tensor,
    clip: Tensor,
    parts: Tensor,
    permutation: Tensor,
    ids: Tensor,
    *,
    backend: str,
    gather: str | None,
) -> Tensor:
    options = {"backend": backend, "gather": gather}
    clip, parts = F.normalize(clip @ weight, dim=-1), F.normalize(parts @ weight[:8, :8], dim=-1)
    return torch.stack(
        [
            DualVarianceLoss(**options)(clip, parts, permutation, ids).total,
            NTXentLoss(**options)(clip[:, 0], clip[:, 1]),
            SupConLoss(**options)(clip[:, 0], ids % 3),
            ClipLoss(**options)(clip[:, 0], clip[:, 1], 8.0),
            TemporalCoherenceLoss(form="segments", **options)(parts[:, 0], parts[:, 1], ids),
        ]
    )


def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    results = tmp_path / "results.pt"
    mp.spawn(gathered_worker, args=(str(tmp_path / "store"), str(results)), nprocs=WORLD)
    weight = torch.eye(12).requires_grad_()
    losses = gathered_losses(weight, *gathered_batch(), backend="eager", gather=None)
    (grad,) = torch.autograd.grad(losses.sum(), weight)
    expected = torch.cat([losses.detach(), grad.flatten()])
    for variant, outcome in zip(VARIANTS, torch.load(results), strict=True):
        # 1e-6 of the largest entry: float32 sums in another order.
        error = (outcome - expected).abs().max() / expected.abs().max()
        assert error < 1e-6, variant


# --------------------------------------------------------------------------------------- training
def train(backend: str, device: str, *, steps: int = 200) -> Tensor:
    """Loss curve [steps, 4] of a tiny encoder on synthetic clips; same data for any backend."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    batch, num_segments = 16, 2
    encoder = nn.Sequential(
        nn.Conv3d(1, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool3d((4, 2, 2)), nn.Flatten(),
        nn.Linear(128, 24 + num_segments * 12),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.02, momentum=0.9)
    loss = DualVarianceLoss(backend=backend)
    videos = torch.randn(64, 1, 8, 3, 3, generator=generator).repeat_interleave(4, 3)
    videos = videos.repeat_interleave(4, 4)
    curve = []
    for _ in range(steps):
        ids = torch.randperm(64, generator=generator)[:batch]
        permutation = torch.rand(batch, num_segments, generator=generator).argsort(dim=1)
        noise = torch.randn(3, batch, 1, 8, 12, 12, generator=generator)
        views = videos[ids] + noise
        halves = views[2].unflatten(2, (num_segments, -1))
        shuffled = halves.take_along_dim(permutation[:, None, :, None, None, None], dim=2)
        clips = torch.stack([*views, shuffled.flatten(2, 3)], dim=1).to(device)
        out = encoder(clips.flatten(0, 1)).unflatten(0, (batch, 4))
        clip = F.normalize(out[..., :24], dim=-1)
        segments = F.normalize(out[..., 24:].unflatten(-1, (num_segments, 12)), dim=-1)
        result = loss(clip, segments, permutation.to(device), ids.to(device))
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
        curve.append(torch.stack([result.total, result.clip, result.coherence, result.rank]))
    return torch.stack(curve).detach().cpu()


def assert_same_curve(ours: Tensor, eager: Tensor) -> None:
    """The first steps agree to rounding, all 200 to 1e-3: training amplifies it."""
    torch.testing.assert_close(ours[:10], eager[:10], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-3)
    assert eager[-20:, 0].mean() < 0.7 * eager[:20, 0].mean()  # it did learn


def test_streamed_and_eager_losses_train_alike() -> None:
    assert_same_curve(train("auto", "cpu"), train("eager", "cpu"))


@pytest.mark.gpu
def test_fused_and_eager_losses_train_alike() -> None:
    assert_same_curve(train("fused", "cuda"), train("eager", "cuda"))


def test_results_name_what_they_hold() -> None:
    assert DualVarianceResult._fields == (
        "total", "clip", "coherence", "rank", "clip_top1", "clip_top5",
        "coherence_top1", "coherence_top5", "rank_accuracy",
    )  # fmt: skip
