"""Every launch that is compiled without a GPU for bench/results/kernels_aot.csv."""

import itertools
from collections.abc import Iterator

import torch

from bench.parts.kernels.compile import Launch, recorded_launches
from fastdual.kernels.contrastive import triton_backward, triton_forward, triton_merge
from fastdual.kernels.contrastive.problem import Layout, Problem, Saved, Settings
from fastdual.kernels.segment_sums import triton as segment_sums_triton
from fastdual.kernels.shuffle_rank import triton as shuffle_rank_triton
from fastdual.kernels.shuffle_rank.problem import Problem as RankProblem

# The D that fills each tile (beyond 256 in steps), and some that are loaded element by element.
_UNALIGNED_DIMS = 8, 24, 83, 230, 921
_DIMS = 16, 32, 64, 128, 256, 1024, *_UNALIGNED_DIMS
_SIZES = (128, None), (16384, None), (64, 16448)  # the paper's batch, a large one, and a queue
# Options of contrastive_launches, and whether positions tell ids and groups.
_OPTIONS = (
    ("plain", False), ("all", False),
    ("plain", True), ("given", True), ("learned", True), ("all", True),
)  # fmt: skip


def contrastive_launches(
    *,
    dtype: torch.dtype,
    dim: int,
    num_rows: int,
    num_columns: int | None = None,
    options: str = "plain",
    placed: bool = False,
) -> list[Launch]:
    """Return the launches of forward and backward, with all gradients.

    Without `num_columns` the rows are their own candidates; `placed` means that positions tell ids
    and groups. Options are "plain", "given" (a tensor as temperature), "learned" (that with a
    gradient), or "all" (every option that costs registers).
    """
    heavy, learned = options == "all", options in ("learned", "all")
    query = torch.empty(num_rows, dim, dtype=dtype)
    ids = torch.empty(num_rows, dtype=torch.int64)
    key = key_ids = None
    if num_columns is not None:
        key = torch.empty(num_columns, dim, dtype=dtype)
        key_ids = torch.empty(num_columns, dtype=torch.int64)
    settings = Settings(normalize=heavy, metrics=heavy, learned=learned)
    if heavy:
        settings = settings._replace(positives="mean", reduction="none")
    temperature = None if options == "plain" else torch.empty(())
    problem = Problem(query, key, ids, key_ids, ids, key_ids, temperature, 0.07, settings)
    if placed:
        # The costliest: ids of samples are read too, and no run is 1, which would be a constant.
        layout = Layout(id_run=2, num_ids=num_rows // 4, group_run=2)
        settings = settings._replace(is_scale=True, layout=layout)
        problem = problem._replace(query_groups=None, settings=settings)
    with recorded_launches() as launches:
        partials = triton_forward.compute_partials(problem)
        merged = triton_merge.merge_partials(partials.fields, settings)
        saved = Saved(merged.num_valid, merged.statistics, merged.slope, *partials[1:])
        triton_backward.compute_gradients(
            problem, saved, merged.loss, (True, True, learned), dtype=dtype
        )
    return launches


def rank_launches(*, dtype: torch.dtype, dim: int, num_segments: int) -> list[Launch]:
    """Return the launches of forward and backward of the shuffle-rank loss."""
    x = torch.empty(64, num_segments, dim, dtype=dtype)
    permutation = torch.empty(64, num_segments, dtype=torch.int64)
    problem = RankProblem(x, x, permutation, 0.05, 5.0, True)
    with recorded_launches() as launches:
        shuffle_rank_triton.forward(problem)
        shuffle_rank_triton.backward(torch.empty(()), problem)
    return launches


def segment_launches(*, dtype: torch.dtype, dim: int, num_segments: int) -> list[Launch]:
    """Return the launch of the sums over segments."""
    x = torch.empty(64, num_segments, dim, dtype=dtype)
    with recorded_launches() as launches:
        segment_sums_triton.forward(x, x)
    return launches


def table_cases() -> Iterator[tuple[str, Launch]]:
    """Yield every kernel in every tile that the launchers choose, once, named by its first use."""
    seen = set()
    for name, launches in _named_launches():
        for launch in launches:
            if launch.digest not in seen:
                seen.add(launch.digest)
                yield name, launch


def _named_launches() -> Iterator[tuple[str, list[Launch]]]:
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    for dtype, name in names.items():
        for dim, (rows, columns), (options, placed) in itertools.product(_DIMS, _SIZES, _OPTIONS):
            # A queue has no positions, a temperature costs the same in every dtype, and positions
            # cost the same at every D.
            if (
                (placed and columns is not None)
                or (options in ("given", "learned") and dtype != torch.bfloat16)
                or (placed and options != "all" and dim in _UNALIGNED_DIMS)
            ):
                continue
            launches = contrastive_launches(
                dtype=dtype, dim=dim, num_rows=rows, num_columns=columns,
                options=options, placed=placed,
            )  # fmt: skip
            size = f"{name} D={dim} N={rows} M={columns or rows}"
            yield f"{size} {options}{', placed' if placed else ''}", launches
        for dim, num_segments in itertools.product((64, 83), (2, 16)):
            launches = rank_launches(dtype=dtype, dim=dim, num_segments=num_segments)
            launches += segment_launches(dtype=dtype, dim=dim, num_segments=num_segments)
            yield f"{name} D={dim} B=64 S={num_segments}", launches
