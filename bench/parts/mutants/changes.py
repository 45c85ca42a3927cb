"""Changes that make a loss wrong, each with the tests that are to see it."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one file."""

    name: str
    file: str
    old: str  # occurs once
    new: str
    tests: tuple[str, ...]
    interpreted: bool = False  # kernels are: the tests run where Triton interprets

    def applied(self, source: str) -> str:
        """Return the source with the change.

        Raises:
            RuntimeError: What is to be changed does not occur once.
        """
        if source.count(self.old) != 1:
            raise RuntimeError(
                f"{self.name}: {self.old!r} occurs {source.count(self.old)} times in {self.file}, "
                "must occur once"
            )
        return source.replace(self.old, self.new)


_CONTRASTIVE = "kernels/contrastive/"
_TESTS = "tests/kernels/contrastive/"
_CASES = f"{_TESTS}test_triton.py::test_interpreted_kernels_are_no_worse_than_eager"


def _kernel(name: str, part: str, old: str, new: str, *tests: str) -> Mutant:
    """Return a mutant of a contrastive kernel; a number stands for a case."""
    given = tuple(
        f"{_CASES}[{test}]" if test.isdigit() else f"{_TESTS}test_triton.py::{test}"
        for test in tests
    )
    return Mutant(name, f"{_CONTRASTIVE}triton_{part}.py", old, new, given, interpreted=True)


def _streamed(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    given = tuple(f"{_TESTS}{test}" for test in tests)
    return Mutant(name, f"{_CONTRASTIVE}{file}", old, new, given)


def _other(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, file, old, new, tests)


MUTANTS = (
    # Labels, places and flags.
    _kernel(
        "high half of ids", "shared",
        "ids = tl.load(side.ids + sample, mask=inside, other=-1).to(tl.int64)",
        "ids = tl.load(side.ids + sample, mask=inside, other=-1).to(tl.int32).to(tl.int64)",
        "15", "16",
    ),
    _kernel(
        "high half of groups", "shared",
        "groups = tl.load(side.groups + index, mask=inside, other=-1).to(tl.int64)",
        "groups = tl.load(side.groups + index, mask=inside, other=-1).to(tl.int32).to(tl.int64)",
        "15", "16",
    ),
    _kernel(
        "negative ids are positives", "shared",
        "tl.where(inside & (ids >= 0), ids, ABSENT)", "tl.where(inside, ids, ABSENT)",
        "1", "2",
    ),
    _kernel(
        "negative groups are ignored", "shared",
        "tl.where(inside & (groups >= 0), groups, ABSENT)", "tl.where(inside, groups, ABSENT)",
        "1", "10",
    ),
    _kernel(
        "ignored pairs are positives", "shared",
        "(ids[:, None] == other_ids[None, :]) & ~ignored, ignored",
        "(ids[:, None] == other_ids[None, :]), ignored",
        "0", "17",
    ),
    _kernel(
        "padding columns are negatives", "shared",
        "return found | (start + BLOCK_OTHER > other.count)", "return found",
        "test_tiles_by_place_are_special_where_labels_meet",
    ),
    _kernel(
        "runs of one id by place", "shared",
        "found = group | (past <= high - low)", "found = group | (past < high - low)",
        "test_tiles_by_place_are_special_where_labels_meet",
    ),
    _kernel(
        "the second flag of a tile", "shared",
        "for block in tl.static_range(1, (BLOCK_OWN + FLAG - 1) // FLAG):",
        "for block in tl.static_range(1, 1):",
        "test_flagged_tiles_are_no_worse_than_eager[5]",
    ),
    _kernel(
        "flags of ids alone", "forward",
        "meets |= groups[:, None] == _hash(other_groups)[None, :]", "meets |= meets",
        "test_flagged_tiles_are_no_worse_than_eager[6]",
    ),
    _kernel(
        "the span of the first group", "shared",
        "run // BLOCK_OTHER * BLOCK_OTHER, 0", "(run // BLOCK_OTHER + 1) * BLOCK_OTHER, 0",
        "19", "20",
    ),
    _kernel(
        "the span of the last group", "shared",
        "tl.where(last_group, group * run, other.count)",
        "tl.where(last_group, group * run - BLOCK_OTHER, other.count)",
        "19", "20",
    ),
    # Rows.
    _kernel(
        "row offsets of 32 bits", "shared",
        "index.to(tl.int64)[:, None] * side.stride", "index[:, None] * side.stride",
        "test_interpreted_offsets_past_two_to_the_31_elements",
    ),
    _kernel(
        "a row without length", "forward",
        "1.0 / tl.maximum(tl.sqrt(squares), FLOOR)", "1.0 / tl.sqrt(squares)",
        "test_a_row_of_zeros_stays_finite",
    ),
    _kernel(
        "the scale of an inverted temperature", "shared",
        "tl.where(temperature.inverted != 0, value, 1.0 / value)", "1.0 / value",
        "19",
    ),
    _kernel(
        "Kahan's softplus", "shared",
        "tl.log2(one_plus) * small / rounded)", "tl.log2(one_plus))",
        "test_slopes_and_losses_near_zero_keep_their_digits",
    ),
    # The forward, the metrics and the merge.
    _kernel(
        "the moment does not fade", "forward",
        "moment = moment * fade + ", "moment = moment + ",
        "45",
    ),
    _kernel(
        "the mass does not fade", "forward",
        "mass = mass * fade + ", "mass = mass + ",
        "45",
    ),
    _kernel(
        "a positive at minus infinity", "forward",
        "scaled = tl.maximum(logits * factor[:, None], LOWEST)",
        "scaled = logits * factor[:, None]",
        "test_a_positive_at_minus_infinity_is_one_to_the_kernels",
    ),
    _kernel(
        "a tie counts against the positive", "forward",
        "logits * factor[:, None] > best[:, None]", "logits * factor[:, None] >= best[:, None]",
        "test_equal_logits_count_for_the_positive",
    ),
    _kernel(
        "the best positive of the first part alone", "forward",
        "for other_part in range(num_parts):", "for other_part in range(1):",
        "45",
    ),
    _kernel(
        "six are among the first five", "merge",
        "valid & (beaten_by < 5)", "valid & (beaten_by <= 5)",
        "test_equal_logits_count_for_the_positive",
    ),
    _kernel(
        "a mean over all rows", "merge",
        "divisor = tl.maximum(num_valid, 1.0) if IS_MEAN else 1.0\n"
        "    tl.store(loss_ptr + tl.program_id(0)",
        "divisor = tl.maximum(N * 1.0, 1.0) if IS_MEAN else 1.0\n"
        "    tl.store(loss_ptr + tl.program_id(0)",
        "1",
    ),
    _kernel(
        "means of parts without their shares", "merge",
        "mean += tl.sum(tl.exp2(lses - base[None, :]) * values, 0)",
        "mean += tl.sum(values, 0)",
        "45",
    ),
    # The backward.
    _kernel(
        "float16 slopes are not scaled up", "backward",
        "HALF_SCALE = tl.constexpr(16384.0)", "HALF_SCALE = tl.constexpr(1.0)",
        "test_slopes_and_losses_near_zero_keep_their_digits",
    ),
    _kernel(
        "float16 weights of any size", "backward",
        "if upstream.ndim and problem.query.dtype == torch.float16:", "if False:",
        "22", "23", "24",
    ),
    _kernel(
        "the series of share - 1 far from 0", "backward",
        "tl.abs(x) < 0.25", "tl.abs(x) < 2.5",
        "3", "4", "5",
    ),
    _kernel(
        "the first slice of D for all", "backward",
        "other_tile = load_tile(other, others, slice_start, D, BLOCK_D)",
        "other_tile = load_tile(other, others, 0, D, BLOCK_D)",
        "8", "46",
    ),
    _kernel(
        "the last part of a gradient", "backward",
        "    for part in range(P):\n", "    for part in range(P - 1):\n",
        "45",
    ),
    _kernel(
        "the length's part of a gradient", "backward",
        "grad = (grad - tile.to(tl.float32) * taken_out[:, None]) * scale[:, None]",
        "grad = grad * scale[:, None]",
        "1", "20",
    ),
    _kernel(
        "the gradient of an inverted temperature", "backward",
        "tl.where(temperature.inverted != 0, total / inverse, -total * inverse)",
        "-total * inverse",
        "19",
    ),
    # The streamed steps.
    _streamed(
        "streamed: a negative id is positive", "streaming_tiles.py",
        "found = (own[:, None] == other[columns]) & (own >= 0)[:, None]",
        "found = own[:, None] == other[columns]",
        "test_loss.py::test_negative_ids_of_candidates_are_never_positive",
        "test_triton.py::test_streaming_takes_the_same_cases[1]",
    ),
    _streamed(
        "streamed: a negative id is looked up", "streaming_tiles.py",
        ".sub_(first).masked_fill_(own < 0, 0)", ".sub_(first)",
        "test_streaming.py::test_pairs_that_are_looked_up_are_those_that_are_compared",
    ),
    _streamed(
        "streamed: a negative group ignores", "streaming_tiles.py",
        "(groups != others) | (groups < 0)", "groups != others",
        "test_triton.py::test_streaming_takes_the_same_cases",
    ),
    _streamed(
        "streamed: a pair of the block before", "streaming_tiles.py",
        "        column += start - columns.start\n", "",
        "test_streaming.py::test_pairs_that_are_looked_up_are_those_that_are_compared",
    ),
    _streamed(
        "streamed: no value yet", "streaming.py",
        "base = higher.masked_fill(higher == -torch.inf, 0)", "base = higher",
        "test_loss.py::test_a_row_without_negative_has_loss_0",
    ),
    _streamed(
        "streamed: a mirror image beats nobody", "streaming.py",
        "counts[tile.mirrored] += above", "above += above",
        "test_streaming.py::test_tiles_do_not_change_the_result",
    ),
    _streamed(
        "streamed: a mirror image has no slope", "streaming.py",
        "        tile.mirror(slopes).add_(back)\n", "",
        "test_streaming.py::test_tiles_do_not_change_the_result",
    ),
    _streamed(
        "streamed: texts meet texts", "streaming_tiles.py",
        "(rows.start if run is None else (rows.start // run + 1) * run) if own else 0",
        "rows.start if own else 0",
        "test_streaming.py::test_images_meet_texts_alone",
    ),
    # Where kernels run.
    _other(
        "no guard of the device", "kernels/backend.py",
        "return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]",
        "import contextlib\n\n    return contextlib.nullcontext()",
        "tests/kernels/test_backend.py",
    ),
    _other(
        "a step outside of the guard", f"{_CONTRASTIVE}op.py",
        "    with device_of(x):\n        yield steps", "    yield steps",
        f"{_TESTS}test_op.py::test_every_step_runs_under_the_guard_of_its_rows",
    ),
    _other(
        "kernels on a GPU too small for them", "kernels/backend.py",
        "return x.is_cuda and capability_of(x.device) >= 8", "return x.is_cuda",
        "tests/kernels/test_backend.py",
    ),
    # Modules, and several processes.
    _other(
        "a precision that is not torch's", f"{_CONTRASTIVE}loss.py",
        'return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"',
        'return "ieee"',
        f"{_TESTS}test_loss.py::test_precision_is_that_of_torchs_own_products",
    ),
    _other(
        "an annealed temperature stays behind", "fastdual/losses.py",
        "self.register_buffer(name, value)", "setattr(self, name, value)",
        "tests/test_losses.py::"
        "test_an_annealed_temperature_moves_with_its_loss_and_is_part_of_its_state",
    ),
    _other(
        "processes give out the same numbers", f"{_CONTRASTIVE}gather.py",
        "dist.get_rank() * _NUMBERS_PER_PROCESS", "0 * _NUMBERS_PER_PROCESS",
        "tests/test_losses_gather.py::test_two_processes_give_the_loss_and_gradient_of_one",
    ),
    _other(
        "a gathered gradient is not divided by all rows", f"{_CONTRASTIVE}gather.py",
        "        dist.all_reduce(count)\n", "",
        f"{_TESTS}test_gather.py::test_processes_together_equal_one_process",
    ),
    # The shuffle-rank loss.
    Mutant(
        "a row is another of itself", "kernels/shuffle_rank/triton.py",
        "is_other = twins & (number[:, None] != number[None, :])", "is_other = twins",
        ("tests/kernels/shuffle_rank/test_triton.py"
         "::test_interpreted_kernels_are_no_worse_than_eager[0]",),
        interpreted=True,
    ),
    Mutant(
        "a slope beyond the clip", "kernels/shuffle_rank/triton.py",
        "slope = tl.where(violation > clip, 0.0, slope)", "slope = slope",
        ("tests/kernels/shuffle_rank/test_triton.py"
         "::test_interpreted_kernels_are_no_worse_than_eager",),
        interpreted=True,
    ),
    Mutant(
        "segments where they stand, not where they came from", "kernels/shuffle_rank/triton.py",
        "return sample, slot, tl.where(in_order, slot, number), in_order, valid",
        "return sample, slot, slot, in_order, valid",
        ("tests/kernels/shuffle_rank/test_triton.py"
         "::test_interpreted_kernels_are_no_worse_than_eager",),
        interpreted=True,
    ),
)  # fmt: skip
