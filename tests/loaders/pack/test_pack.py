"""Packing: what is in a pack, clips from it, bad videos, shards."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdual.errors import FailureError, InputError
from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.decode.encoded import PackedBytes
from fastdual.loaders.index import VideoIndex, open_index, summary, verify_index
from fastdual.loaders.pack import PackOptions, Transcoding, hardware_warning, merge_jobs, pack
from fastdual.loaders.plan import ClipSpec, draw_plan
from tests.loaders.clips import read_frames, read_number
from tests.loaders.damage import flip
from tests.loaders.pack.packing import AS_IS, PLAIN, SMALL, VP9, numbers_in, one_epoch
from tests.packages import av


def test_bytes_as_they_are_come_back_with_the_same_index(index: VideoIndex, tmp_path: Path) -> None:
    packed = pack(index, tmp_path / "p.h5", AS_IS)
    for video in range(len(index)):
        source = packed.source(video)
        assert isinstance(source, PackedBytes)
        assert source.read() == index.path(video).read_bytes()
    # A run may continue with the pack of its index: what is loaded is the same.
    assert packed.fingerprint == index.fingerprint
    assert packed.quarantine == index.quarantine
    assert "as they were; in 1 file" in summary(packed)
    shutil.rmtree(index.root)
    reopened = open_index(tmp_path / "p.h5")
    assert verify_index(reopened, num_workers=1) == ()
    assert os.listdir(tmp_path) == ["p.h5"]


def test_transcoding_keeps_frames_facts_and_splits(
    made_index: VideoIndex, small: VideoIndex
) -> None:
    assert small.codecs == ("h264",) * 6
    assert small.size.tolist() == [[32, 48], [48, 32], *[[32, 48]] * 4]
    assert not small.rotation.any()
    for name in ("num_frames", "fps", "duration_seconds", "labels", "modified_ns"):
        assert np.array_equal(getattr(small, name), getattr(made_index, name)), name
    for name in ("paths", "class_names", "groups", "quarantine"):
        assert getattr(small, name) == getattr(made_index, name), name
    for name, videos in made_index.splits.items():
        assert np.array_equal(small.splits[name], videos)
    for video in range(6):
        assert numbers_in(small, video) == list(range(made_index.num_frames[video]))
    assert small.fingerprint != made_index.fingerprint
    assert "codec h264, gop 16, quality 18, short side 32, stride 4; in 1 file" in summary(small)


def test_a_pack_can_be_packed_again(small: VideoIndex, tmp_path: Path) -> None:
    """The order of the source's frames is undone, or kept with its bytes."""
    for number, options in enumerate((VP9, PLAIN, AS_IS)):
        again = pack(small, tmp_path / f"{number}.h5", options)
        stride = 1 if options is PLAIN else 4
        assert again.frame_stride == stride
        assert numbers_in(again, 0) == list(range(20))
    for number in (1, 2):
        pack(small, tmp_path / "m.h5", dataclasses.replace(AS_IS, job=(number, 2)))
    merged = merge_jobs(small, tmp_path / "m.h5")
    assert merged.frame_stride == 4
    assert numbers_in(merged, 5) == list(range(11))


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_clips_of_any_stride_show_the_planned_frames(small: VideoIndex, stride: int) -> None:
    spec = ClipSpec(frames_per_clip=4, frame_stride=stride)
    videos = np.array([0, 2, 3, 5])
    for epoch in range(4):  # about half of the clips run backwards
        plan = draw_plan(
            spec, seed=0, epoch=epoch, videos=videos, num_frames=small.num_frames[videos]
        )
        wanted, order = unique_frames(small.places(videos, plan.frames))
        for row, video in enumerate(videos.tolist()):
            pictures = read_frames(
                small.source(video), wanted[row], keyframes=small.keyframes(video)
            )
            shown = np.array([read_number(picture) for picture in pictures])[order[row]]
            assert np.array_equal(shown, plan.frames[row])


def test_clips_from_a_pack_equal_clips_from_files(index: VideoIndex, tmp_path: Path) -> None:
    packed = pack(index, tmp_path / "p.h5", AS_IS)
    for ours, theirs in zip(one_epoch(packed), one_epoch(index), strict=True):
        assert torch.equal(ours.clips, theirs.clips)
        assert torch.equal(ours.video_ids, theirs.video_ids)


def test_dali_decodes_the_bytes_of_a_pack(
    made_index: VideoIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = pack(made_index, tmp_path / "p.h5", VP9)
    dali, pyav = (one_epoch(packed, decode=name) for name in ("dali-cpu", "pyav"))
    assert not caplog.records  # PyAV did not have to help
    for ours, theirs in zip(dali, pyav, strict=True):
        # Two scalers, then normalisation by a standard deviation of about 58 levels.
        assert (ours.clips - theirs.clips).abs().mean() < 0.1


def test_an_altered_video_is_quarantined_and_replaced(
    made_index: VideoIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = pack(made_index, tmp_path / "p.h5", AS_IS)
    source = packed.source(2)
    assert isinstance(source, PackedBytes)
    flip(source.file, source.offset + source.length // 2)
    reopened = open_index(tmp_path / "p.h5")  # the tables are sound
    batches = one_epoch(reopened, quarantine_path=tmp_path / "bad.jsonl")
    assert 2 not in torch.cat([batch.video_ids for batch in batches])
    assert len(batches) == 3
    record = json.loads((tmp_path / "bad.jsonl").read_text())
    assert record["path"] == "run/2.mkv" and "were altered: pack it again" in record["reason"]
    assert "p.h5/run/2.mkv" in caplog.text
    ((path, reason),) = verify_index(reopened, num_workers=1)
    assert path == "run/2.mkv" and "were altered" in reason


def test_a_finished_pack_is_not_made_again_and_nothing_is_overwritten(
    index: VideoIndex, tmp_path: Path
) -> None:
    pack(index, tmp_path / "p.h5", AS_IS)
    shutil.rmtree(index.root)
    assert len(pack(index, tmp_path / "p.h5", AS_IS)) == 6
    with pytest.raises(InputError, match="from other videos or with other options: delete it"):
        pack(index, tmp_path / "p.h5", SMALL)
    (tmp_path / "notes.h5").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a pack: delete it"):
        pack(index, tmp_path / "notes.h5", AS_IS)
    for write in (lambda: pack(index, tmp_path, AS_IS), lambda: merge_jobs(index, tmp_path)):
        with pytest.raises(InputError, match="is a folder: name a file for the pack"):
            write()
    assert (tmp_path / "notes.h5").read_text() == "mine"


def test_a_video_that_fails_is_quarantined(index: VideoIndex, tmp_path: Path) -> None:
    size = index.path(3).stat().st_size
    index.path(3).write_bytes(b"\0" * size)
    packed = pack(index, tmp_path / "p.h5", SMALL)
    assert "walk/0.avi" not in packed.paths and len(packed) == 5
    path, reason = packed.quarantine[-1]
    assert path == "walk/0.avi" and "was changed after it was indexed" in reason
    assert packed.splits["train"].tolist() == [0, 2, 4]
    assert packed.splits["test"].tolist() == [1, 3]
    assert numbers_in(packed, 4) == list(range(11))


def test_too_many_failures_stop_and_keep_what_is_done(index: VideoIndex, tmp_path: Path) -> None:
    away = index.root.rename(tmp_path / "away")
    with pytest.raises(
        FailureError, match="5 videos failed, more than 4 .*: mend or leave them out"
    ):
        pack(index, tmp_path / "p.h5", AS_IS)
    away.rename(index.root)
    assert len(pack(index, tmp_path / "p.h5", AS_IS)) == 6
    away = index.root.rename(tmp_path / "away")
    with pytest.raises(FailureError, match="no video could be packed"):
        pack(index, tmp_path / "q.h5", dataclasses.replace(AS_IS, job=(1, 3)))


def test_shards_stay_below_their_size_and_work_alone(index: VideoIndex, tmp_path: Path) -> None:
    options = dataclasses.replace(SMALL, shard_bytes=7000)
    packed = pack(index, tmp_path / "p.h5", options)
    assert packed.packed is not None and len(packed.packed.shards) == 3
    assert all(shard.length <= 7000 for shard in packed.packed.shards)
    assert [numbers_in(packed, v) for v in range(6)] == [list(range(n)) for n in index.num_frames]
    alone = [open_index(shard.file) for shard in packed.packed.shards]
    assert sum((shard.paths for shard in alone), ()) == packed.paths
    assert (tmp_path / "p.h5").stat().st_size < 40_000


def test_jobs_that_do_not_exist_are_refused(index: VideoIndex, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name one of 1/3 to 3/3"):
        pack(index, tmp_path / "p.h5", dataclasses.replace(AS_IS, job=(4, 3)))
    with pytest.raises(InputError, match="job 7/7 has nothing to do: there are 6 videos"):
        pack(index, tmp_path / "p.h5", dataclasses.replace(AS_IS, job=(7, 7)))


def test_a_codec_that_cannot_be_encoded_is_refused_before_the_work(
    index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx265"})
    hevc = PackOptions(transcoding=Transcoding(codec="hevc"), num_workers=1)
    with pytest.raises(InputError, match="codec hevc: this PyAV has no libx265; use another"):
        pack(index, tmp_path / "p.h5", hevc)
    assert not list(tmp_path.glob("p.h5*"))


def test_sizes_below_the_hardware_are_warned_of(made_index: VideoIndex) -> None:
    big = Transcoding(size=(128, 171))
    assert hardware_warning(made_index, big) is None
    hevc = hardware_warning(made_index, dataclasses.replace(big, codec="hevc"))
    assert hevc is not None and "6 of 6 videos" in hevc and "hevc of 176x128" in hevc
    assert hevc.endswith("; --codec h264 takes almost every size")
    tiny = hardware_warning(made_index, dataclasses.replace(big, size=(32, 16)))
    assert tiny is not None and tiny.endswith(
        "NVDEC refuses h264 of 16x32; --size can make them larger"
    )
    assert "mjpeg" in (hardware_warning(made_index, Transcoding(codec="mjpeg")) or "")
    assert "1 of 6" in (hardware_warning(made_index, None) or "")  # the VP9 file of 64x48
