"""Bad arguments of the loss modules are named."""

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdual import functional
from fastdual.losses import (
    ClipLoss,
    ContrastiveLoss,
    DualVarianceLoss,
    NTXentLoss,
    ShuffleRankLoss,
    SupConLoss,
    TemporalCoherenceLoss,
)
from tests.embeddings import dual_inputs, unit

NO_NUMBERS = [0, -0.5, math.nan, math.inf, np.float32(-1), True, np.True_, "0.5", None, [0.5], 1j]
NO_NUMBERS += [np.array([0.5]), 10**400]


def elsewhere(*shape: int) -> tuple[Tensor, Tensor]:
    """Two views, the second on another device."""
    return unit(*shape), torch.empty(shape, device="meta", dtype=torch.float64)


def wrong_permutation() -> list[Tensor]:
    clip, segments, permutation, ids = dual_inputs(4, 2)
    return [clip, segments, permutation[:3], ids]


def four_rows() -> list[Tensor]:
    rows, ids = unit(4, 8), torch.arange(4)
    return [rows, rows, ids, ids]


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
        (lambda: DualVarianceLoss(objective="order")(*dual_inputs(4, 2)), "objective is 'order'"),
        (
            lambda: DualVarianceLoss()(*dual_inputs(4, 2)[:2], None, torch.arange(4)),
            "is 'clip.rank",
        ),
        (lambda: DualVarianceLoss(clip_weight=-1.0), "^clip_weight is -1.0, must be a finite"),
        (lambda: DualVarianceLoss(rank_weight=float("inf")), "^rank_weight is inf"),
        (lambda: DualVarianceLoss(coherence_weight=torch.ones(())), "^coherence_weight is tensor"),
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
