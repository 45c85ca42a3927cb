"""Our presets against the libraries whose calling conventions they take: values and gradients."""

import math
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.parts.losses import contestants
from fastdual.losses import ClipLoss, NTXentLoss, SupConLoss

# float32 on both sides, and another order of summation.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
Outcome = tuple[Tensor, tuple[Tensor, ...]]


def load_or_skip(load: Callable[[], nn.Module]) -> nn.Module:
    try:
        return load()
    except contestants.ContestantMissingError as error:
        # Continuous integration installs them all, and a skip would go by unseen there.
        if os.environ.get("FASTDUAL_REQUIRE_CONTESTANTS"):
            raise
        pytest.skip(str(error))


def differentiate(loss: nn.Module, *arguments: Tensor) -> Outcome:
    """The loss, and its gradient to every floating argument under an upstream gradient of 1.7."""
    arguments = tuple(a.clone().requires_grad_() if a.is_floating_point() else a for a in arguments)
    value = loss(*arguments)
    wanted = [a for a in arguments if a.is_floating_point()]
    return value.detach(), torch.autograd.grad(1.7 * value, wanted)


def assert_same(ours: Outcome, theirs: Outcome) -> None:
    torch.testing.assert_close(ours[0], theirs[0], **TOLERANCE)
    for our_grad, their_grad in zip(ours[1], theirs[1], strict=True):
        assert their_grad.abs().max() > 100 * TOLERANCE["atol"]
        torch.testing.assert_close(our_grad, their_grad, **TOLERANCE)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(("batch", "dim"), [(1, 16), (2, 8), (33, 100), (128, 64)])
def test_nt_xent_is_that_of_lightly(batch: int, dim: int, backend: str) -> None:
    torch.manual_seed(batch)
    views = torch.randn(2, batch, dim)
    theirs = load_or_skip(lambda: contestants.lightly_nt_xent(temperature=0.2))
    if batch == 1:
        # No negatives: 0 on both sides, and no gradient to compare.
        assert theirs(*views) == NTXentLoss(0.2, backend=backend)(*views) == 0
        return
    assert_same(
        differentiate(NTXentLoss(0.2, backend=backend), *views), differentiate(theirs, *views)
    )


def test_nt_xent_has_the_default_temperature_of_lightly() -> None:
    theirs = load_or_skip(lambda: contestants.lightly_nt_xent(temperature=0.5))
    views = torch.randn(2, 9, 24)
    assert_same(differentiate(NTXentLoss(), *views), differentiate(theirs, *views))


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(("rows", "classes"), [(6, 2), (40, 7), (64, 50)])
def test_supcon_is_that_of_pytorch_metric_learning(rows: int, classes: int, backend: str) -> None:
    """With 50 classes on 64 rows many rows have no positive: both leave them out of the mean."""
    torch.manual_seed(rows)
    embeddings, labels = torch.randn(rows, 32), torch.randint(classes, (rows,))
    theirs = load_or_skip(lambda: contestants.metric_learning_supcon(temperature=0.1))
    assert_same(
        differentiate(SupConLoss(0.1, backend=backend), embeddings, labels),
        differentiate(theirs, embeddings, labels),
    )


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("batch", [2, 37, 96])
def test_clip_is_that_of_open_clip(batch: int, backend: str) -> None:
    """The gradient to the learned logit scale is compared too."""
    torch.manual_seed(batch)
    image, text = nn.functional.normalize(torch.randn(2, batch, 48), dim=-1)
    text = nn.functional.normalize(0.2 * image + text, dim=-1)
    logit_scale = torch.tensor(math.log(1 / 0.07)).exp()
    theirs = load_or_skip(contestants.open_clip_loss)
    assert_same(
        differentiate(ClipLoss(backend=backend), image, text, logit_scale),
        differentiate(theirs, image, text, logit_scale),
    )


def test_clip_takes_a_logit_bias_as_open_clip_does() -> None:
    """It moves all logits alike; its gradient is what DistributedDataParallel waits for."""
    image, text = nn.functional.normalize(torch.randn(2, 12, 16), dim=-1)
    bias = torch.tensor(-10.0, requires_grad=True)
    output = {"image_features": image, "text_features": text, "logit_scale": torch.tensor(9.0)}
    theirs = load_or_skip(contestants.open_clip_loss)(**output, logit_bias=bias, output_dict=True)
    ours = ClipLoss()(**output, logit_bias=bias, output_dict=True)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    ours["contrastive_loss"].backward()
    assert bias.grad == 0


def test_clip_takes_a_plain_number_as_logit_scale() -> None:
    theirs = load_or_skip(contestants.open_clip_loss)
    image, text = torch.randn(2, 12, 16)
    torch.testing.assert_close(ClipLoss()(image, text, 2.5), theirs(image, text, 2.5), **TOLERANCE)


def test_stand_ins_do_not_stay_behind() -> None:
    import sys

    load_or_skip(lambda: contestants.lightly_nt_xent(temperature=0.5))
    assert not [name for name in sys.modules if name.partition(".")[0] == "lightly"]
