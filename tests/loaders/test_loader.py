"""ClipLoader end to end: right clips, the same in all circumstances, resumed anywhere."""

import json
import pickle

import numpy as np
import pytest
import torch

from fastdual.errors import InputError
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.plan import ClipSpec, draw_plan
from tests.loaders.clips import encode, read_frames
from tests.loaders.loading import EVALUATE, NUM_VIDEOS, SPEC, assert_same, load, order_of
from tests.loaders.views.augment_reference import reference_views

# ---- right clips


def test_a_batch_is_the_reference_of_its_plan(index: VideoIndex):
    for batch in load(index, 2):
        assert batch.clips.shape == (4, 4, 3, 4, 32, 32) and batch.clips.dtype == torch.float32
        for row, video in enumerate(batch.video_ids.tolist()):
            frames = np.arange(index.num_frames[video])
            pictures = read_frames(index.path(video), frames, size=(40, 57))
            truth = reference_views(pictures, batch.plan[row : row + 1], SPEC)
            ours = batch.clips[row].permute(0, 2, 3, 4, 1).double().numpy()
            assert np.abs(ours - truth).max() < 1e-5


def test_a_batch_says_what_it_shows(index: VideoIndex):
    batches = load(index, 3)
    ids = [batch.video_ids.tolist() for batch in batches]
    assert [video for part in ids for video in part] == order_of(index)[:12]
    for batch in batches:
        plan = draw_plan(
            SPEC,
            seed=3,
            epoch=0,
            videos=batch.video_ids.numpy(),
            num_frames=index.num_frames[batch.video_ids.numpy()],
        )
        assert np.array_equal(batch.plan.frames, plan.frames)
        assert np.array_equal(batch.permutation.numpy(), plan.permutation)
        assert batch.labels.tolist() == index.labels[batch.video_ids.numpy()].tolist()


def test_memory_is_channels_last(index: VideoIndex):
    (batch,) = load(index, 1)
    flat = batch.clips.flatten(0, 1)
    assert flat.data_ptr() == batch.clips.data_ptr()
    assert flat.is_contiguous(memory_format=torch.channels_last_3d)


def test_finetuning_gives_one_view(index: VideoIndex):
    spec = ClipSpec(
        mode="finetune", frames_per_clip=4, resize_height=40, resize_width=57, crop_size=32
    )
    (batch,) = load(index, 1, spec=spec)
    assert batch.clips.shape == (4, 1, 3, 4, 32, 32) and batch.permutation is None


# ---- evaluation: in order, everything once


def test_evaluation_yields_every_video_in_order_and_a_short_last_batch(index: VideoIndex):
    loader = ClipLoader(
        index, EVALUATE, batch_size=5, shuffle=False, drop_last=False, num_workers=1
    )
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [len(batch.clips) for batch in batches] == [5, 5, 3]
    assert torch.cat([b.video_ids for b in batches]).tolist() == list(range(NUM_VIDEOS))
    assert batches[0].clips.shape == (5, 3, 3, 4, 32, 32)
    assert loader.epoch == 1 and loader.step == 0
    again = list(loader)
    assert torch.equal(again[2].clips, batches[2].clips)
    loader.close()


def test_ranks_share_a_short_last_batch_even_where_a_part_is_empty(index: VideoIndex):
    options = {"spec": EVALUATE, "batch_size": 12, "shuffle": False, "drop_last": False}
    parts = [load(index, 2, rank=rank, world_size=4, **options) for rank in range(4)]
    assert [len(part[1].clips) for part in parts] == [0, 0, 0, 1]
    ids = [video for step in range(2) for part in parts for video in part[step].video_ids.tolist()]
    assert ids == list(range(NUM_VIDEOS))


# ---- the same batch in all circumstances


def test_workers_and_batch_split_change_no_bit(index: VideoIndex):
    base = load(index, 3)
    assert_same(load(index, 3), base)
    assert_same(load(index, 3, num_workers=3, prefetch=1), base)
    assert_same(load(index, 6, batch_size=2), base)
    assert_same(load(index, 1, batch_size=12), base)


# ---- state


def test_resuming_goes_on_with_the_same_batches(index: VideoIndex):
    base = load(index, 8)
    with ClipLoader(index, SPEC, batch_size=4, seed=3, num_workers=1) as loader:
        iterator = iter(loader)
        next(iterator), next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
        assert (state["epoch"], state["step"]) == (0, 2)
        next(iterator)
        end = loader.state_dict()
        assert (end["epoch"], end["step"]) == (1, 0)
    assert_same(load(index, 6, state=state), base[2:])
    assert_same(load(index, 5, state=end), base[3:])
    parts = [load(index, 6, state=state, rank=rank, world_size=2) for rank in range(2)]
    for step in range(6):
        assert_same([part[step] for part in parts], [base[2 + step]])


def test_resuming_reads_nothing_of_what_was_seen(own_index: VideoIndex, caplog):
    base = load(own_index, 3, spec=EVALUATE, shuffle=False)
    for video in range(8):
        own_index.path(video).unlink()
    with ClipLoader(own_index, EVALUATE, batch_size=4, seed=3, shuffle=False) as loader:
        loader.load_state_dict({**loader.state_dict(), "step": 2})
        batches = list(loader)
    assert len(batches) == 1 and torch.equal(batches[0].clips, base[2].clips)
    assert not caplog.records


def test_leaving_a_loop_and_coming_back_goes_on(index: VideoIndex):
    base = load(index, 3)
    with ClipLoader(index, SPEC, batch_size=4, seed=3, num_workers=1) as loader:
        first = [batch for batch, _ in zip(loader, range(1), strict=False)]
        rest = list(loader)
    # zip took one more batch than it gave: that one counts as seen
    assert torch.equal(first[0].clips, base[0].clips)
    assert len(rest) in (1, 2) and torch.equal(rest[-1].clips, base[2].clips)


def test_epochs_differ_and_follow_each_other(index: VideoIndex):
    with ClipLoader(index, SPEC, batch_size=4, seed=3, num_workers=1) as loader:
        epochs = [[b.video_ids.tolist() for b in loader] for _ in range(3)]
    shown = [[video for batch in epoch for video in batch] for epoch in epochs]
    assert shown == [order_of(index, epoch)[:12] for epoch in range(3)]
    assert len({tuple(order) for order in shown}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "saved with seed 4, here it is 3; resume with the same"),
        ({"batch_size": 8}, "saved with batch_size 8"),
        ({"index": "0"}, "saved with index '0'"),
        ({"split": "train"}, "saved with split 'train', here it is None"),
        ({"shuffle": False}, "saved with shuffle False"),
        ({"drop_last": False}, "saved with drop_last False"),
        ({"step": 99}, "state is damaged: epoch 0, step 99"),
        ({"step": "2"}, "state is damaged: epoch 0, step 2"),
        ({"epoch": None}, "state is damaged: epoch None, step 0"),
    ],
)
def test_a_state_of_other_data_is_refused(index: VideoIndex, change, message):
    loader = ClipLoader(index, SPEC, batch_size=4, seed=3)
    with pytest.raises(InputError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})


@pytest.mark.parametrize("state", [None, "x", {}, {"epoch": 1, "step": 0}])
def test_what_is_no_state_is_refused(index: VideoIndex, state):
    with pytest.raises(InputError, match="is no loader's state: give what state_dict gave"):
        ClipLoader(index, SPEC, batch_size=4).load_state_dict(state)


def test_a_copy_of_a_loader_in_use_goes_on_from_its_place(index: VideoIndex):
    with ClipLoader(index, SPEC, batch_size=4, seed=3, num_workers=1) as loader:
        next(iter(loader))
        with pickle.loads(pickle.dumps(loader)) as copy:
            assert_same(list(copy), load(index, 3)[1:])
        assert_same(list(loader), load(index, 3)[1:])


def test_an_epoch_can_be_chosen(index: VideoIndex):
    """Chosen or reached by counting, it is the same one, from its start."""
    expected = load(index, 9)[6:]
    with ClipLoader(index, SPEC, batch_size=4, seed=3, num_workers=1) as loader:
        next(iter(loader))
        loader.set_epoch(2)
        assert (loader.epoch, loader.step) == (2, 0)
        assert_same(list(loader), expected)
        assert loader.epoch == 3
        with pytest.raises(InputError, match="epoch is -1; must be a whole number"):
            loader.set_epoch(-1)


def test_a_loader_and_an_index_say_what_they_are(index: VideoIndex):
    assert repr(ClipLoader(index, SPEC, batch_size=4)) == (
        f"ClipLoader(13 videos in {index.root}, 3 batches of 4, 4 views [3, 4, 32, 32] at stride "
        f"{SPEC.frame_stride}, decoded by pyav, at epoch 0, step 0)"
    )
    assert repr(index).startswith(f"VideoIndex(13 videos in {index.root}, ")


# ---- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 14}, "a batch of 14 is larger than the data: 13 videos"),
        ({"batch_size": 5, "world_size": 2}, "batch size 5 does not divide over 2 processes"),
        ({"split": "nope"}, "no split 'nope'"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"decode": "nvdec"}, "decode nvdec needs a CUDA device"),
        ({"dtype": torch.float64}, "dtype is torch.float64"),
        ({"dtype": "float32"}, "dtype is 'float32'; choose torch.float32"),
        ({"batch_size": 2.5}, "batch_size is 2.5; must be a whole number, at least 1"),
        ({"batch_size": "8"}, "batch_size is '8'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"prefetch": 0}, "prefetch is 0"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"num_workers": "2"}, "num_workers is '2'"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0; must be above 0"),
        ({"transform": "flip"}, "transform is 'flip'; must be a function"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(index: VideoIndex, options, message):
    with pytest.raises(InputError, match=message):
        ClipLoader(index, SPEC, **{"batch_size": 4, **options})


def test_a_batch_checks_itself(index: VideoIndex):
    (batch,) = load(index, 1)
    with pytest.raises(ValueError, match=r"as many rows as video_ids"):
        ClipBatch(batch.clips[:2], batch.permutation, batch.video_ids, batch.labels, batch.plan)
    assert repr(batch) == "ClipBatch(clips=(4, 4, 3, 4, 32, 32) torch.float32 on cpu)"


def test_the_choice_of_decoder_is_told(index: VideoIndex):
    loader = ClipLoader(index, SPEC, batch_size=4)
    assert loader.decode_choice.decoder == "pyav" and "PyAV" in loader.decode_choice.reason


# ---- on a GPU


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """8 videos with B-frames, of a size that NVDEC pads."""
    folder = tmp_path_factory.mktemp("h264")
    for number in range(8):
        encode(folder / f"{number}.mp4", 20 + number, height=256, width=344, gop=12, b_frames=2)
    return build_index(folder, tmp_path_factory.mktemp("index") / "x.h5", num_workers=1)


@pytest.mark.gpu
@pytest.mark.needs("av", "nvidia.dali")
@pytest.mark.parametrize("decode", ["pyav", "nvdec"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_shows_what_the_cpu_shows(h264: VideoIndex, decode, dtype):
    ours = load(h264, 6, device="cuda:0", decode=decode, dtype=dtype)
    for one, other in zip(ours, load(h264, 6), strict=True):
        assert one.decoders == (decode,) * 4
        assert one.clips.is_cuda and one.clips.dtype == dtype
        assert torch.equal(one.video_ids.cpu(), other.video_ids)
        assert torch.equal(one.permutation.cpu(), other.permutation)
        limit = 2 / 57 if decode == "nvdec" else 0.01
        assert (one.clips.float().cpu() - other.clips).abs().mean() < limit
        flat = one.clips.flatten(0, 1)
        assert flat.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.gpu
@pytest.mark.needs("av", "nvidia.dali")
def test_a_batch_on_the_gpu_is_safe_on_another_stream(index: VideoIndex):
    """The consumer's kernels may run long after the batch is dropped: its memory must wait."""
    base = [batch.clips.sum() for batch in load(index, 6, device="cuda:0")]
    sums = []
    with ClipLoader(index, SPEC, batch_size=4, seed=3, device="cuda:0", num_workers=2) as loader:
        while len(sums) < 6:
            for batch in loader:
                torch.cuda._sleep(50_000_000)
                sums.append(batch.clips.sum())
    assert torch.equal(torch.stack(sums[:6]), torch.stack(base))
