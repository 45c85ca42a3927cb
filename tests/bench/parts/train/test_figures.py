"""The arithmetic of a step, and kernels by kind."""

import pytest

from bench.parts.train.case import Size
from bench.parts.train.figures import KINDS, kind_of, training_gflop


def test_the_arithmetic_of_a_step_is_that_of_the_method() -> None:
    paper = Size(batch=1, frames=16, crop=112)
    assert training_gflop("r2plus1d", paper) == pytest.approx(3 * 42.72, rel=1e-3)
    assert training_gflop("s3d", paper) == pytest.approx(3 * 8.95, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("void at::native::batch_norm_collect_statistics", "norm"),
        ("ampere_bf16_s16816gemm_bf16_128x64", "product"),
        ("_contrastive_fwd_kernel", "losses"),
        ("void at::native::multi_tensor_apply_kernel", "optimiser"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("triton_poi_fused_relu_3", "other"),
    ],
)
def test_kernels_are_told_apart_by_name(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind
    assert kind in (*KINDS, "other")
