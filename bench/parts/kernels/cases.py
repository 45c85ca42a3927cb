"""Every launch that is compiled without a GPU for bench/results/kernels_aot.csv."""

from collections.abc import Iterator

import numpy as np
import torch

from bench.parts.kernels.compile import Launch, recorded_launches
from fastdual.kernels.contrastive import triton_steps
from fastdual.kernels.contrastive.problem import Layout, Problem, Saved, Settings
from fastdual.kernels.segment_sums import triton as segment_sums_triton
from fastdual.kernels.shuffle_rank import triton as shuffle_rank_triton
from fastdual.kernels.shuffle_rank.problem import Problem as RankProblem
from fastdual.loaders.plan import ClipSpec, draw_plan
from fastdual.loaders.views import fused

_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
# Settings, and whether places tell ids and groups: the defaults of NT-Xent and of SupCon, what
# costs most registers, and that with ids and groups given.
_NT_XENT = Settings(normalize=True, metrics=False)
_SUPCON = Settings("mean", normalize=True, metrics=False)
_ALL = Settings("mean", "none", normalize=True, learned=True)
_LARGE_CLIPS = ClipSpec(
    resize_height=256, resize_width=340, crop_size=224, blur_sigma=(0.1, 4.0), views=(0, 1)
)
_NAMES = {_NT_XENT: "NT-Xent", _SUPCON: "SupCon", _ALL: "all"}


def contrastive_launches(
    *,
    dtype: torch.dtype,
    dim: int,
    num_rows: int,
    num_columns: int | None = None,
    settings: Settings = _NT_XENT,
    placed: bool = False,
    architecture: int = 90,
) -> list[Launch]:
    """Return the launches of forward and backward, with all gradients.

    Without `num_columns` the rows are their own candidates; `placed` means that places tell ids and
    groups, as of two views.
    """
    query = torch.empty(num_rows, dim, dtype=dtype)
    ids = torch.empty(num_rows, dtype=torch.int64)
    key = key_ids = None
    if num_columns is not None:
        key = torch.empty(num_columns, dim, dtype=dtype)
        key_ids = torch.empty(num_columns, dtype=torch.int64)
    temperature = torch.empty(()) if settings.learned else None
    problem = Problem(query, key, ids, key_ids, ids, key_ids, temperature, 0.07, settings)
    if placed:
        settings = settings._replace(layout=Layout(id_run=1, num_ids=num_rows // 2, group_run=1))
        problem = problem._replace(query_ids=None, query_groups=None, settings=settings)
    with recorded_launches(architecture) as launches:
        fields, prepared = triton_steps.compute_partials(problem)
        counts = None
        if settings.metrics:
            counts = triton_steps.count_beaten(problem, prepared, fields)
        merged = triton_steps.merge_partials(problem, fields, counts)
        saved = Saved(merged.num_valid, merged.statistics, merged.slope, prepared)
        triton_steps.compute_gradients(
            problem, saved, merged.loss, (True, True, settings.learned), dtype=dtype
        )
    return launches


def rank_launches(
    *, dtype: torch.dtype, dim: int, num_segments: int, architecture: int
) -> list[Launch]:
    """Return the launches of forward and backward of the shuffle-rank loss."""
    x = torch.empty(64, num_segments, dim, dtype=dtype)
    permutation = torch.empty(64, num_segments, dtype=torch.int64)
    problem = RankProblem(x, x, permutation, 0.05, 5.0, True)
    with recorded_launches(architecture) as launches:
        shuffle_rank_triton.forward(problem)
        shuffle_rank_triton.backward(torch.empty(()), problem)
    return launches


def segment_launches(
    *, dtype: torch.dtype, dim: int, num_segments: int, architecture: int
) -> list[Launch]:
    """Return the launch of the sums over segments."""
    x = torch.empty(64, num_segments, dim, dtype=dtype)
    with recorded_launches(architecture) as launches:
        segment_sums_triton.forward(x, x)
    return launches


def views_launches(spec: ClipSpec, *, dtype: torch.dtype, architecture: int) -> list[Launch]:
    """Return the launches that make the views of 32 videos, whose crops are cut from more."""
    videos, height, width = 32, spec.resize_height, spec.resize_width
    numbers = np.zeros((videos, 1 + max(spec.view_clip), spec.frames_per_clip), np.int64)
    plan = draw_plan(
        spec, seed=0, epoch=0, videos=np.arange(videos), num_frames=np.full(videos, 300)
    )
    frames = torch.empty((spec.most_frames * videos, height, width, 3), dtype=torch.uint8)
    clips = torch.empty((videos, spec.num_views, *spec.clip_shape, 3), dtype=dtype)
    with recorded_launches(architecture) as launches:
        tables = fused.tables(spec, plan, numbers, np.arange(videos))
        fused.make_views(frames, spec, tables, clips)
    return launches


def table_cases(architecture: int) -> Iterator[tuple[str, Launch]]:
    """Yield every kernel in every tile that the launchers choose there, named by its first use."""
    seen = set()
    for name, launches in _named_launches(architecture):
        for launch in launches:
            if launch.digest not in seen:
                seen.add(launch.digest)
                yield name, launch


def _named_launches(architecture: int) -> Iterator[tuple[str, list[Launch]]]:
    bf16, fp16, fp32 = _DTYPES
    kinds = (_NT_XENT, _SUPCON, _ALL)
    cases = [(bf16, 128, 16384, None, settings) for settings in kinds]
    cases += [(bf16, dim, 16384, None, _ALL) for dim in (64, 256)]
    # The paper's batch, an odd D, one beyond a tile, and a queue.
    cases += [(bf16, dim, 128, None, _ALL) for dim in (128, 83, 512)]
    cases += [(bf16, 128, 64, 16448, _ALL)]
    cases += [(dtype, 128, 16384, None, _ALL) for dtype in (fp16, fp32)]
    for dtype, dim, rows, columns, settings in cases:
        launches = contrastive_launches(
            dtype=dtype, dim=dim, num_rows=rows, num_columns=columns, settings=settings,
            placed=settings == _NT_XENT, architecture=architecture,
        )  # fmt: skip
        yield f"{_DTYPES[dtype]} D={dim} N={rows} M={columns or rows} {_NAMES[settings]}", launches
    for dtype, num_segments in ((bf16, 2), (bf16, 16), (fp32, 16)):
        size = {"dtype": dtype, "dim": 64, "num_segments": num_segments}
        launches = rank_launches(**size, architecture=architecture)
        launches += segment_launches(**size, architecture=architecture)
        yield f"{_DTYPES[dtype]} D=64 B=64 S={num_segments}", launches
    for spec in (ClipSpec(), _LARGE_CLIPS):
        launches = views_launches(spec, dtype=bf16, architecture=architecture)
        yield f"bf16 views of {spec.crop_size}x{spec.crop_size}", launches
