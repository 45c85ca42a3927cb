"""The Triton kernels of the shuffle-rank loss and their launchers; needs triton, imported lazily.

loss.py holds the formula, op.py what is not materialised and the legend of shape letters. A program
works on ROWS rows, whole samples of 2S rows each, and uses the diagonal blocks of the [ROWS, ROWS]
product of them all.
"""

# Triton, not Python, types the parameters of a kernel.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdual.kernels.shuffle_rank.problem import Problem


@triton.jit
def _locate_rows(permutation_ptr, B, stride_pb, stride_ps, S: tl.constexpr, ROWS: tl.constexpr):
    """Return sample, slot in its tensor, segment number, side and validity of each row."""
    lanes = tl.arange(0, ROWS)
    samples_per_program: tl.constexpr = ROWS // (2 * S)
    sample = tl.program_id(0).to(tl.int64) * samples_per_program + lanes // (2 * S)  # [ROWS]
    valid = (lanes < samples_per_program * 2 * S) & (sample < B)
    position = lanes % (2 * S)
    in_order = position < S
    slot = tl.where(in_order, position, position - S)
    number = tl.load(
        permutation_ptr + sample * stride_pb + slot * stride_ps, mask=valid & ~in_order, other=0
    )
    return sample, slot, tl.where(in_order, slot, number), in_order, valid


@triton.jit
def _load_rows(x_ptr, shuffled_ptr, x_offset, s_offset, stride_xd, stride_sd, is_x, is_s, dim, D):
    """Return the columns `dim` of every row [ROWS, BLOCK_D]; one of the two loads is masked off."""
    inside = (dim < D)[None, :]
    x = tl.load(
        x_ptr + x_offset[:, None] + dim[None, :] * stride_xd, mask=is_x[:, None] & inside, other=0.0
    )
    shuffled = tl.load(
        shuffled_ptr + s_offset[:, None] + dim[None, :] * stride_sd,
        mask=is_s[:, None] & inside,
        other=0.0,
    )
    return tl.where(is_x[:, None], x, shuffled)


@triton.jit
def _similarities(
    x_ptr, shuffled_ptr, x_offset, s_offset, stride_xd, stride_sd, is_x, is_s, D,
    NORMALIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return similarities of all pairs of rows [ROWS, ROWS], and 1 / length of each row [ROWS]."""
    similarity = tl.zeros([ROWS, ROWS], tl.float32)
    for start in range(0, D, BLOCK_D):
        dim = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
        z = _load_rows(
            x_ptr, shuffled_ptr, x_offset, s_offset, stride_xd, stride_sd, is_x, is_s, dim, D
        )
        similarity += tl.dot(z, tl.trans(z), input_precision="ieee")
    scale = tl.full([ROWS], 1.0, tl.float32)
    if NORMALIZE:
        # The squared lengths are the diagonal: no second pass over D. The floor is F.normalize's.
        lanes = tl.arange(0, ROWS)
        squares = tl.sum(tl.where(lanes[:, None] == lanes[None, :], similarity, 0.0), 1)
        scale = 1.0 / tl.maximum(tl.sqrt(squares), 1e-12)
        similarity = similarity * scale[:, None] * scale[None, :]
    return similarity, scale


@triton.jit
def _violations(similarity, sample, number, valid, temperature, ROWS: tl.constexpr):
    """Return masks of matches and others, similarity of the match [ROWS], and scaled violations."""
    lanes = tl.arange(0, ROWS)
    twins = (
        (sample[:, None] == sample[None, :])
        & (lanes[:, None] != lanes[None, :])
        & valid[:, None]
        & valid[None, :]
    )
    is_match = twins & (number[:, None] == number[None, :])
    is_other = twins & (number[:, None] != number[None, :])
    match = tl.sum(tl.where(is_match, similarity, 0.0), 1)  # [ROWS]
    violation = (similarity - match[:, None]) / temperature
    return is_match, is_other, match, violation


@triton.jit
def _softplus(u):
    """Return log(1 + e^u) to full relative precision, even where e^u is far below 1."""
    small = tl.exp(-tl.abs(u))
    one_plus = 1.0 + small
    # log(1 + e) * e / ((1 + e) - 1) undoes the rounding of 1 + e (Kahan).
    rounded = tl.where(one_plus == 1.0, 1.0, one_plus - 1.0)
    log1p = tl.where(one_plus == 1.0, small, tl.log(one_plus) * small / rounded)
    return tl.maximum(u, 0.0) + log1p


@triton.jit
def _shuffle_rank_fwd_kernel(
    x_ptr, shuffled_ptr, permutation_ptr, partial_ptr, B, D, temperature, clip,
    stride_xb, stride_xs, stride_xd, stride_sb, stride_ss, stride_sd, stride_pb, stride_ps,
    S: tl.constexpr, HAS_CLIP: tl.constexpr, NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the sum of the softplus in partial[0, program], and the rows ranked right in [1]."""
    sample, slot, number, in_order, valid = _locate_rows(
        permutation_ptr, B, stride_pb, stride_ps, S, ROWS
    )
    similarity, _ = _similarities(
        x_ptr, shuffled_ptr, sample * stride_xb + slot * stride_xs,
        sample * stride_sb + slot * stride_ss, stride_xd, stride_sd,
        in_order & valid, ~in_order & valid, D, NORMALIZE, ROWS, BLOCK_D,
    )  # fmt: skip
    _, is_other, match, violation = _violations(
        similarity, sample, number, valid, temperature, ROWS
    )
    if HAS_CLIP:
        # Not tl.minimum, which would turn a NaN into the limit.
        violation = tl.where(violation > clip, clip, violation)
    loss = tl.sum(tl.where(is_other, _softplus(violation), 0.0))
    best_other = tl.max(tl.where(is_other, similarity, float("-inf")), 1)  # [ROWS]
    correct = tl.sum(tl.where(valid & (match > best_other), 1.0, 0.0))
    program = tl.program_id(0).to(tl.int64)
    tl.store(partial_ptr + program, loss)
    tl.store(partial_ptr + tl.num_programs(0).to(tl.int64) + program, correct)


@triton.jit
def _shuffle_rank_reduce_kernel(
    partial_ptr, loss_ptr, accuracy_ptr, num_partials, num_pairs, num_rows,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up all partials by one program in a fixed order, so that two runs agree bit by bit."""
    loss = tl.zeros([BLOCK], tl.float32)
    correct = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_partials, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < num_partials
        loss += tl.load(partial_ptr + index, mask=inside, other=0.0)
        correct += tl.load(partial_ptr + num_partials + index, mask=inside, other=0.0)
    tl.store(loss_ptr, tl.sum(loss) / num_pairs)
    tl.store(accuracy_ptr, tl.sum(correct) / num_rows)


@triton.jit
def _shuffle_rank_bwd_kernel(
    upstream_ptr, x_ptr, shuffled_ptr, permutation_ptr, grad_x_ptr, grad_shuffled_ptr,
    B, D, temperature, clip, scale_of_mean,
    stride_xb, stride_xs, stride_xd, stride_sb, stride_ss, stride_sd, stride_pb, stride_ps,
    S: tl.constexpr, HAS_CLIP: tl.constexpr, NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the gradients of both inputs [B, S, D]: a [ROWS, ROWS] matrix times the rows."""
    sample, slot, number, in_order, valid = _locate_rows(
        permutation_ptr, B, stride_pb, stride_ps, S, ROWS
    )
    x_offset = sample * stride_xb + slot * stride_xs
    s_offset = sample * stride_sb + slot * stride_ss
    is_x = in_order & valid
    is_s = ~in_order & valid
    similarity, scale = _similarities(
        x_ptr, shuffled_ptr, x_offset, s_offset, stride_xd, stride_sd, is_x, is_s, D,
        NORMALIZE, ROWS, BLOCK_D,
    )  # fmt: skip
    is_match, is_other, _, violation = _violations(
        similarity, sample, number, valid, temperature, ROWS
    )
    small = tl.exp(-tl.abs(violation))
    slope = tl.where(violation > 0, 1.0, small) / (1.0 + small)  # sigmoid, without overflow
    if HAS_CLIP:
        slope = tl.where(violation > clip, 0.0, slope)
    slope = tl.where(is_other, slope, 0.0) * (tl.load(upstream_ptr) * scale_of_mean / temperature)
    slope = tl.where(is_match, -tl.sum(slope, 1)[:, None], slope)  # d loss / d similarity
    mixing = slope + tl.trans(slope)
    if NORMALIZE:
        # Through z / |z|: the part of the gradient along z itself is taken out.
        lanes = tl.arange(0, ROWS)
        along = tl.sum(mixing * similarity, 1)
        mixing = mixing - tl.where(lanes[:, None] == lanes[None, :], along[:, None], 0.0)
        mixing = mixing * scale[:, None] * scale[None, :]
    out_offset = (sample * S + slot) * D
    for start in range(0, D, BLOCK_D):
        dim = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
        z = _load_rows(
            x_ptr, shuffled_ptr, x_offset, s_offset, stride_xd, stride_sd, is_x, is_s, dim, D
        )
        grad = tl.dot(mixing, z.to(tl.float32), input_precision="ieee")
        inside = (dim < D)[None, :]
        out = out_offset[:, None] + dim[None, :]
        element = grad_x_ptr.dtype.element_ty
        tl.store(grad_x_ptr + out, grad.to(element), mask=is_x[:, None] & inside)
        tl.store(grad_shuffled_ptr + out, grad.to(element), mask=is_s[:, None] & inside)


def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy, 0-d float32 each: two launches."""
    x, shuffled, permutation, temperature, clip, normalize = problem
    batch, segments, dim = x.shape
    blocks = _block_sizes(segments, dim)
    programs = triton.cdiv(batch, blocks["ROWS"] // (2 * segments))
    partial = torch.empty((2, programs), dtype=torch.float32, device=x.device)
    _shuffle_rank_fwd_kernel[(programs,)](
        x, shuffled, permutation, partial, batch, dim, temperature, clip or 0.0,
        *x.stride(), *shuffled.stride(), *permutation.stride(),
        S=segments, HAS_CLIP=clip is not None, NORMALIZE=normalize, **blocks,
    )  # fmt: skip
    loss = torch.empty((), dtype=torch.float32, device=x.device)
    accuracy = torch.empty_like(loss)
    _shuffle_rank_reduce_kernel[(1,)](
        partial, loss, accuracy, programs, float(problem.num_pairs), float(problem.num_rows),
        BLOCK=1024, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return loss, accuracy


def backward(upstream: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and shuffled, contiguous [B, S, D] in their dtype: one launch."""
    x, shuffled, permutation, temperature, clip, normalize = problem
    batch, segments, dim = x.shape
    blocks = _block_sizes(segments, dim)
    programs = triton.cdiv(batch, blocks["ROWS"] // (2 * segments))
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_shuffled = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _shuffle_rank_bwd_kernel[(programs,)](
        upstream, x, shuffled, permutation, grad_x, grad_shuffled, batch, dim, temperature,
        clip or 0.0, 1.0 / problem.num_pairs,
        *x.stride(), *shuffled.stride(), *permutation.stride(),
        S=segments, HAS_CLIP=clip is not None, NORMALIZE=normalize, **blocks,
    )  # fmt: skip
    return grad_x, grad_shuffled


def _block_sizes(num_segments: int, dim: int) -> dict[str, int]:
    """Return the tile. ROWS holds at least one sample of 2S rows, and at least the 16 of tl.dot."""
    rows = 16 if num_segments <= 8 else 32
    block_d = max(16, min(32, triton.next_power_of_2(dim)))
    return {"ROWS": rows, "BLOCK_D": block_d, "num_warps": rows // 8, "enable_fp_fusion": True}
