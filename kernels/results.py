"""What losses with metrics return."""

from typing import NamedTuple

from torch import Tensor


class ContrastiveResult(NamedTuple):
    """Loss and the metrics of the same pass; the metrics carry no gradient.

    The best of several positives is judged: `top1` means that no negative has a higher logit than
    the row's best positive, `top5` that fewer than five have. Equal logits count for the positive.
    A row without a positive is not `valid`, and neither top1 nor top5.
    """

    loss: Tensor  # 0-d, or [N] for reduction="none"
    top1: Tensor  # [N] bool
    top5: Tensor  # [N] bool
    valid: Tensor  # [N] bool: the row has a positive


class RankResult(NamedTuple):
    """Shuffle-rank loss, and the share of rows whose match beats all others, without gradient."""

    loss: Tensor  # 0-d
    accuracy: Tensor  # 0-d float32
