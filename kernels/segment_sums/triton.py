"""The kernel of the sums over segments and its launcher; needs triton."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _segment_sums_kernel(
    first_ptr, second_ptr, sums_ptr, B, D,
    first_b, first_s, first_d, second_b, second_s, second_d,
    S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store sums[row] of one clip, in slices of D: program (clip, slice, view)."""
    clip = tl.program_id(0).to(tl.int64)
    view = tl.program_id(2)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], tl.float32)
    for segment in tl.static_range(S):
        if view == 0:
            at = first_ptr + clip * first_b + segment * first_s + dims * first_d
        else:
            at = second_ptr + clip * second_b + segment * second_s + dims * second_d
        total += tl.load(at, mask=dims < D, other=0.0).to(tl.float32)
    row = clip + view * B
    tl.store(sums_ptr + row * D + dims, total.to(sums_ptr.dtype.element_ty), mask=dims < D)


def forward(first: Tensor, second: Tensor) -> Tensor:
    """Return the sums [2B, D] of views [B, S, D] of any strides."""
    batch, segments, dim = first.shape
    sums = first.new_empty((2 * batch, dim))
    block = min(256, max(16, triton.next_power_of_2(dim)))
    _segment_sums_kernel[(batch, triton.cdiv(dim, block), 2)](
        first, second, sums, batch, dim, *first.stride(), *second.stride(),
        S=segments, BLOCK_D=block, num_warps=1 if block <= 64 else 4,
        enable_fp_fusion=True,
    )  # fmt: skip
    return sums
