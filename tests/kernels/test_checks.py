"""Bad arguments are named, by the truth and by the fused losses alike."""

import math

import pytest
import torch

from fastdual.kernels import contrastive, reference, shuffle_rank

BOTH = pytest.mark.parametrize("module", [reference, contrastive], ids=["reference", "op"])


@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(3, 2, 8)}, r"query has shape \[3, 2, 8\], must be \[rows, D\]"),
        ({"key": torch.zeros(8)}, r"key has shape \[8\], must be \[rows, D\]"),
        ({"query": torch.zeros(0, 8)}, r"query has shape \[0, 8\], must have at least one row"),
        ({"key": torch.zeros(4, 9)}, "key has D = 9 but query has D = 8, must be equal"),
        ({"query": torch.zeros(3, 0), "key": torch.zeros(4, 0)}, "query has D = 0, must be 1"),
        ({"query": torch.zeros(3, 8).long()}, "query has dtype torch.int64, must be float32"),
        ({"query": [[0.0]]}, "query is a list, must be a tensor"),
        ({"key": torch.zeros(4, 8).half()}, "key has dtype torch.float16 but query has torch.fl"),
        ({"key": torch.zeros(4, 8, device="meta")}, "key is on meta but query is on cpu"),
        ({"query_ids": torch.arange(4)}, r"query_ids has shape \[4\], must be \[3\]: one id per"),
        ({"key_ids": torch.zeros(4)}, "key_ids has dtype torch.float32, must be int64 or int32"),
        ({"key_ids": [0, 1, 2, 3]}, "key_ids is a list, must be an int64 or int32 tensor"),
        ({"key_ids": torch.zeros(4, device="meta").long()}, "key_ids is on meta but query is on"),
        ({"query_groups": torch.arange(3)}, "key_groups is None, must be given where"),
        ({"key_groups": torch.arange(4)}, "query_groups is None, must be given where"),
        ({"query_groups": torch.arange(2), "key_groups": torch.arange(4)},
         r"query_groups has shape \[2\], must be \[3\]"),
        ({"temperature": 0.0}, "temperature is 0.0, must be a finite number above 0"),
        ({"temperature": -1}, "temperature is -1, must be a finite number above 0"),
        ({"temperature": math.nan}, "temperature is nan, must be a finite number above 0"),
        ({"temperature": torch.ones(1)}, r"temperature is a tensor of shape \[1\]"),
        ({"temperature": torch.tensor(1)}, "dtype torch.int64, must be a float or a 0-d floating"),
        ({"positives": "max"}, "positives is 'max', must be one of 'sum', 'mean'"),
        ({"reduction": "avg"}, "reduction is 'avg', must be one of 'mean', 'none', 'sum'"),
    ],
)  # fmt: skip
def test_bad_argument_of_a_contrast_is_named(
    module, change: dict[str, object], message: str
) -> None:
    arguments = {
        "query": torch.zeros(3, 8),
        "key": torch.zeros(4, 8),
        "query_ids": torch.arange(3),
        "key_ids": torch.arange(4),
        "temperature": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        module.contrastive_loss(**(arguments | change))


@pytest.mark.parametrize("module", [reference, shuffle_rank], ids=["reference", "op"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 1, 8), "shuffled": torch.zeros(3, 1, 8)}, "S = 1 .*rank undefined"),
        ({"x": torch.zeros(3, 17, 8), "shuffled": torch.zeros(3, 17, 8)}, "S = 17 .*2 and 16"),
        ({"x": torch.zeros(3, 8)}, r"x has shape \[3, 8\], must be \[B, S, D\]"),
        ({"x": torch.zeros(0, 4, 8), "shuffled": torch.zeros(0, 4, 8)}, "no axis may be empty"),
        ({"x": torch.zeros(3, 4, 0), "shuffled": torch.zeros(3, 4, 0)}, "x has D = 0, must be 1"),
        ({"shuffled": torch.zeros(3, 4, 9)}, r"shuffled has shape \[3, 4, 9\] but x has"),
        ({"shuffled": torch.zeros(3, 4, 8).half()}, "shuffled has dtype torch.float16 but x"),
        ({"x": torch.zeros(3, 4, 8).long()}, "x has dtype torch.int64, must be float32"),
        ({"shuffled": torch.zeros(3, 4, 8, device="meta")}, "shuffled is on meta but x is on cpu"),
        ({"permutation": torch.zeros(3, 4)}, "permutation is of torch.float32, must be an int64"),
        ({"permutation": [[0, 1, 2, 3]] * 3}, "permutation is of list"),
        ({"permutation": torch.zeros(3, 3).long()}, r"permutation has shape \[3, 3\], must be"),
        ({"permutation": torch.tensor([[0, 1, 2, 3], [3, 3, 1, 0], [0, 1, 2, 3]])},
         r"permutation\[1\] is \[3, 3, 1, 0\], must hold each of 0 .. 3 once"),
        ({"temperature": 0.0}, "temperature is 0.0, must be a finite number above 0"),
        ({"temperature": torch.tensor(0.1)}, "temperature is a tensor, must be a float"),
        ({"clip": math.nan}, "clip is nan, must be None or a finite number"),
    ],
)  # fmt: skip
def test_bad_argument_of_shuffle_rank_is_named(
    module: object, change: dict[str, object], message: str
) -> None:
    arguments = {
        "x": torch.zeros(3, 4, 8),
        "shuffled": torch.zeros(3, 4, 8),
        "permutation": torch.arange(4).expand(3, 4),
    }
    with pytest.raises(ValueError, match=message):
        module.shuffle_rank_loss(**(arguments | change))
