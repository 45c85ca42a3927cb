"""A network that is only measured: any change of a weight or statistic is named."""

import pytest
import torch
from torch import nn

from fastdual.errors import FailureError
from fastdual.model.frozen import check_frozen, kept_frozen, snapshot


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_one_statistic_that_moved_is_named() -> None:
    model = network().train()
    with (
        pytest.raises(FailureError, match=r"3 frozen weights .* moved, first 1.running_mean"),
        kept_frozen(model),
    ):
        model(torch.randn(4, 2))
    with kept_frozen(model.eval()):
        model(torch.randn(4, 2))


def test_not_a_number_is_equal_to_itself_and_a_single_bit_counts() -> None:
    model = network()
    weight = model[0].weight  # type: ignore[index]
    with torch.no_grad():
        weight[0, 0], weight[1, 1] = torch.nan, 1.0
    before = snapshot(model)
    check_frozen(model, before)
    with torch.no_grad():
        weight[1, 1] = 1.0 + 2**-23
    with pytest.raises(FailureError, match=r"1 frozen .* first 0.weight"):
        check_frozen(model, before)
