"""The plan against the paper: streams, frame lists by hand, rows, recorded plans."""

import gc
import hashlib
import sys
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdual.errors import InputError
from fastdual.loaders.plan import ALL_VIEWS, ClipPlan, ClipSpec
from tests.loaders.plans import MANY, assert_same_plan, draw


def test_crops_are_drawn_from_numpys_uniform_numbers():
    stream = np.random.Philox(key=np.array([3, 4], np.uint64), counter=[0, 9, 0, 0])
    draws = np.random.Generator(stream).random(14)
    plan = draw(ClipSpec(), 50, seed=3, epoch=4, videos=[9])
    assert (plan.crop_y[0, 0], plan.crop_x[0, 0]) == (int(draws[11] * 17), int(draws[12] * 60))


def digest(plan: ClipPlan) -> str:
    found = hashlib.sha256()
    for name, values in sorted(plan.to_arrays().items()):
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("mode", "recorded"),
    [
        ("pretrain", ["664457ed2e9ea4b2", "89acaa4113a18b70", "4107226f37fd5acb"]),
        ("finetune", ["001afa8390871f61", "85f7a814af7fd123", "02ae73bc5c4932a2"]),
        ("evaluate", ["842bb6e0feecc7f9"] * 3),
        ("independent", ["6195af21610ea219", "a96aeaec55592b88", "0bbc05e7f5960e62"]),
    ],
)
def test_plans_are_those_of_every_earlier_version(mode, recorded):
    """Old runs resume and replay with the same clips."""
    videos, lengths = [0, 1, 2, 5, 1000, 10**12, 2**62], [1, 9, 64, 65, 300, 1000, 12345]
    keys = [(0, 0), (7, 3), (2**64 - 1, 2**63 + 5)]
    spec = ClipSpec(mode=mode, short_start="first")  # as `config.stored` reads old runs
    found = [
        digest(draw(spec, lengths, seed=seed, epoch=epoch, videos=videos)) for seed, epoch in keys
    ]
    assert found == recorded


def test_a_plan_that_was_recorded():
    spec = ClipSpec(frames_per_clip=4)
    plan = draw(spec, [100, 30], seed=3, epoch=2, videos=[0, 7])
    assert plan.frames.tolist() == [
        [[80, 76, 72, 68], [63, 59, 55, 51]],
        [[25, 21, 17, 13], [27, 23, 19, 15]],
    ]
    assert plan.crop_y.tolist() == [[1, 16, 0], [9, 12, 8]]
    assert plan.crop_x.tolist() == [[18, 24, 2], [19, 36, 27]]
    assert plan.jitter[0, 0, 0] == 1.3741572901311867
    assert plan.blur_sigma.tolist() == [
        [0.0, 1.7077902079143115, 0.0],
        [0.7006396315324565, 0.0, 1.7844615899610035],
    ]
    assert plan.permutation.tolist() == [[0, 1], [0, 1]]


def test_pretraining_clips_lie_around_a_centre_and_repeat_the_edge_frames():
    spec = ClipSpec(frames_per_clip=4, frame_stride=3, reverse_probability=0.0)
    num_frames = 10
    possible = {
        tuple(np.clip([c - 6, c - 3, c, c + 3], 0, num_frames - 1)) for c in range(num_frames)
    }
    assert (0, 0, 0, 3) in possible and (3, 6, 9, 9) in possible
    plan = draw(spec, np.full(2000, num_frames))
    assert plan.frames.shape == (2000, 2, 4)
    assert {tuple(clip) for clip in plan.frames.reshape(-1, 4)} == possible


def test_the_two_centres_are_independent_and_uniform():
    spec = ClipSpec(frames_per_clip=1, num_segments=1, reverse_probability=0.0)
    plan = draw(spec, np.full(MANY, 4))
    counts = np.zeros((4, 4))
    np.add.at(counts, (plan.frames[:, 0, 0], plan.frames[:, 1, 0]), 1)
    expected = MANY / 16
    assert (((counts - expected) ** 2 / expected).sum()) < 37.7  # chi-square, 15 degrees, p = 0.001


def test_reversal_plays_both_clips_backwards_in_half_of_the_videos():
    forwards = draw(ClipSpec(reverse_probability=0.0), np.full(MANY, 300)).frames
    backwards = draw(ClipSpec(reverse_probability=1.0), np.full(MANY, 300)).frames
    assert np.array_equal(backwards, forwards[:, :, ::-1])
    mixed = draw(ClipSpec(), np.full(MANY, 300)).frames
    reversed_ = (mixed == backwards).all(axis=(1, 2))
    assert np.array_equal(mixed, np.where(reversed_[:, None, None], backwards, forwards))
    assert abs(reversed_.mean() - 0.5) < 0.015


def test_finetuning_starts_uniformly_and_never_pads_a_long_video():
    spec = ClipSpec(mode="finetune", frames_per_clip=4, num_segments=1, frame_stride=2)
    plan = draw(spec, np.full(MANY, 13))
    starts = Counter(plan.frames[:, 0, 0].tolist())
    assert set(starts) == set(range(5))  # 13 - 4 * 2 possible starts
    assert max(abs(n / MANY - 0.2) for n in starts.values()) < 0.015
    assert (np.diff(plan.frames, axis=2) == 2).all()


def test_finetuning_pads_a_short_video_at_either_end():
    spec = ClipSpec(mode="finetune", frames_per_clip=6, num_segments=1, frame_stride=3)
    clips = Counter(tuple(clip) for clip in draw(spec, np.full(6000, 8)).frames[:, 0])
    # By hand: the three first frames that a stride of 3 allows, each padded in front or behind.
    at_front = {(0, 0, 0, 0, 3, 6), (0, 0, 0, 1, 4, 7), (0, 0, 0, 0, 2, 5)}
    at_end = {(0, 3, 6, 7, 7, 7), (1, 4, 7, 7, 7, 7), (2, 5, 7, 7, 7, 7)}
    assert set(clips) == at_front | at_end
    assert all(abs(count / 6000 - 1 / 6) < 0.02 for count in clips.values())


def test_a_short_video_of_an_old_run_starts_at_its_first_frame():
    spec = ClipSpec(
        mode="finetune", frames_per_clip=6, num_segments=1, frame_stride=3, short_start="first"
    )
    clips = {tuple(clip) for clip in draw(spec, np.full(200, 8)).frames[:, 0]}
    assert clips == {(0, 0, 0, 0, 3, 6), (0, 3, 6, 7, 7, 7)}


@pytest.mark.parametrize(
    ("views", "augmented", "clips"), [((0, 1), [0, 1], 2), ((0, 2, 3), [0, 2], 1)]
)
def test_views_that_are_left_out_change_nothing_about_the_others(views, augmented, clips):
    lengths = np.arange(10, 60)
    whole, part = draw(ClipSpec(), lengths), draw(ClipSpec(views=views), lengths)
    assert np.array_equal(part.frames, whole.frames[:, :clips])
    for name in ("crop_y", "crop_x", "jitter", "blur_sigma", "flip"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[:, augmented]), name
    assert (part.permutation is None) == (3 not in views)
    if part.permutation is not None:
        assert np.array_equal(part.permutation, whole.permutation)
    spec = ClipSpec(views=views)
    assert (spec.num_views, part.view_clip) == (len(views), tuple(v % 2 for v in augmented))
    assert ClipSpec().views == ALL_VIEWS


def test_a_video_just_long_enough_for_finetuning_is_not_padded():
    spec = ClipSpec(
        mode="finetune", frames_per_clip=4, num_segments=1, frame_stride=2, short_start="first"
    )
    for num_frames in (7, 8):
        assert draw(spec, num_frames).frames[0, 0].tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("num_frames", "clips"),
    [
        # T * stride = 8; centres from 4 to n - 4
        (20, [[0, 2, 4, 6], [6, 8, 10, 12], [12, 14, 16, 18]]),
        (9, [[0, 2, 4, 6], [0, 2, 4, 6], [1, 3, 5, 7]]),
        (5, [[0, 2, 4, 4]] * 3),
        (2, [[0, 1, 1, 1]] * 3),
    ],
)
def test_evaluation_clips_are_evenly_spaced(num_frames, clips):
    spec = ClipSpec(
        mode="evaluate", frames_per_clip=4, num_segments=1, frame_stride=2, clips_per_video=3
    )
    assert draw(spec, num_frames).frames[0].tolist() == clips


def test_evaluation_agrees_with_the_formula_row_by_row():
    spec = ClipSpec(mode="evaluate")
    lengths = np.arange(1, 300)
    plan = draw(spec, lengths)
    half = 16 * 4 // 2
    for n, clips in zip(lengths.tolist(), plan.frames, strict=True):
        low = min(half, n)
        high = max(low, n - half)
        for centre, clip in zip(np.linspace(low, high, 10), clips, strict=True):
            start = max(0, int(centre - half))
            assert clip.tolist() == [min(start + 4 * i, n - 1) for i in range(16)]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_row_depends_on_seed_epoch_and_video_alone(data):
    mode = data.draw(st.sampled_from(["pretrain", "finetune", "evaluate"]))
    spec = ClipSpec(mode=mode, clips_per_video=3)
    videos = np.array(data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=12)))
    lengths = np.array([1 + video % 200 for video in videos])
    whole = draw(spec, lengths, seed=5, epoch=7, videos=videos)
    order = np.array(data.draw(st.permutations(range(len(videos)))))
    shuffled = draw(spec, lengths[order], seed=5, epoch=7, videos=videos[order])
    assert_same_plan(whole[order], shuffled)
    cut = data.draw(st.integers(0, len(videos)))
    assert_same_plan(ClipPlan.concatenate([whole[:cut], whole[cut:]]), whole)


def test_another_seed_epoch_or_video_draws_other_values():
    base = draw(ClipSpec(), [500] * 50)
    for other in (
        draw(ClipSpec(), [500] * 50, seed=2),
        draw(ClipSpec(), [500] * 50, epoch=1),
        draw(ClipSpec(), [500] * 50, videos=range(50, 100)),
    ):
        assert (base.frames[:, 0, 0] == other.frames[:, 0, 0]).mean() < 0.2
        assert (base.crop_x == other.crop_x).mean() < 0.1


def test_changing_one_setting_changes_nothing_else():
    base = draw(ClipSpec(), np.full(200, 100))
    other = draw(ClipSpec(jitter_probability=0.0, num_segments=4), np.full(200, 100))
    assert np.array_equal(base.frames, other.frames)
    assert np.array_equal(base.crop_x, other.crop_x)
    assert np.array_equal(base.blur_sigma, other.blur_sigma)
    assert (other.jitter == (1, 1, 1, 0)).all()


@pytest.mark.parametrize("mode", ["pretrain", "evaluate"])
def test_a_plan_survives_a_file(mode):
    plan = draw(ClipSpec(mode=mode), [40, 50])
    file = BytesIO()
    np.savez(file, **plan.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        assert_same_plan(ClipPlan.from_arrays(arrays), plan)


@pytest.mark.parametrize("mode", ["pretrain", "finetune", "evaluate", "independent"])
def test_nothing_but_random_words_is_drawn_sample_by_sample(mode):
    """As many calls for 512 videos as for two; numpy hides those of its generator."""

    def calls(count: int) -> int:
        seen = []
        num_frames, videos = np.full(count, 300), np.arange(count)
        gc.disable()  # another test's garbage is not a call of the plan
        sys.setprofile(lambda frame, event, argument: seen.append(event))
        try:
            draw(ClipSpec(mode=mode), num_frames, videos=videos)
        finally:
            sys.setprofile(None)
            gc.enable()
        return len(seen)

    calls(2)  # what is done once
    assert calls(512) == calls(2) < 2000


def test_an_empty_plan_is_fine():
    plan = draw(ClipSpec(), np.zeros(0, np.int64))
    assert len(plan) == 0 and plan.frames.shape == (0, 2, 16)


def test_bad_seeds_and_empty_videos_are_refused():
    with pytest.raises(InputError, match="seed -1"):
        draw(ClipSpec(), [10], seed=-1)
    with pytest.raises(InputError, match="video 1 has no frames"):
        draw(ClipSpec(), [10, 0])
