"""The self-checks of losses and convolutions notice what computes wrongly."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastdual.doctor import losses
from fastdual.kernels.contrastive import loss as contrastive
from fastdual.kernels.shuffle_rank import loss as shuffle_rank
from fastdual.training.bf16_check import ConvolutionReport


@pytest.mark.parametrize(
    ("module", "name", "check"),
    [
        (contrastive, "contrastive_loss", losses.check_contrastive),
        (shuffle_rank, "shuffle_rank_loss", losses.check_shuffle_rank),
    ],
)
@pytest.mark.parametrize("fault", ["value", "gradient", "nan"])
def test_loss_that_computes_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    check: Callable[[], tuple[str, str]],
    fault: str,
) -> None:
    right = getattr(module, name)

    def broken(x: Tensor, *arguments: Tensor, **options: float) -> Tensor:
        loss: Tensor = right(x, *arguments, **options)
        if fault == "value":
            return loss + 0.01 * loss.detach()
        drift = (x - x.detach()).sum()  # no value, only a gradient
        return loss + (torch.nan if fault == "nan" else 0.01) * drift

    assert check()[0] in ("ok", "unavailable")
    monkeypatch.setattr(module, name, broken)
    status, detail = check()
    assert status == "wrong"
    assert "differs from the reference" in detail


@pytest.mark.parametrize("wrong", [(), ("conv1 (2, 3, 16, 112, 112): output is off by 90.0%",)])
def test_convolution_that_is_off_is_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...]
) -> None:
    report = ConvolutionReport(wrong, slowdown=0.25, checked=17)
    monkeypatch.setattr(losses, "check_bf16_convolutions", lambda *_: report)
    monkeypatch.setattr(torch.nn.Module, "to", lambda network, *_: network)
    status, detail = losses.check_conv3d()
    if wrong:
        assert status == "wrong"
        assert detail.startswith(wrong[0]) and "run.precision=fp32" in detail
    else:
        assert (status, detail) == ("ok", "17 convolutions agree with fp32, in 0.25 times its time")
