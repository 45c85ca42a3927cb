"""Bad videos are named, written down once and replaced; too many of them stop the run."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdual.errors import FailureError
from fastdual.loaders.index import VideoIndex
from tests.loaders.loading import (
    break_file,
    load,
    order_of,
)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fastdual.loaders")


@pytest.mark.parametrize("decoder", ["pyav", "dali-cpu"])
def test_a_bad_video_is_named_and_replaced_by_the_next_good_one(
    own_index: VideoIndex, tmp_path: Path, caplog, decoder, request: pytest.FixtureRequest
):
    if decoder == "dali-cpu":
        request.getfixturevalue("dali_where_it_can")
    base = load(own_index, 6)
    order = order_of(own_index)
    for place in (1, 2):  # one after the other: the substitute of the first is bad itself
        break_file(own_index, order[place])
    names = {own_index.paths[order[place]] for place in (1, 2)}
    quarantine = tmp_path / "run" / "quarantine.jsonl"
    shown = load(own_index, 6, quarantine_path=quarantine)
    assert shown[0].video_ids.tolist() == [order[0], order[3], order[3], order[3]]
    assert shown[0].plan.videos.tolist() == shown[0].video_ids.tolist()
    for row in (0, 3):
        assert torch.equal(shown[0].clips[row], base[0].clips[row])
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == sorted(names)  # once, in two epochs
    assert all(line["reason"] and line["video"] in order[1:3] for line in lines)
    warned = [r.getMessage() for r in caplog.records if "cannot use the video" in r.getMessage()]
    assert len(warned) == 2 and all(any(name in text for name in names) for text in warned)
    # the batch that follows is as it was
    assert torch.equal(shown[1].clips, base[1].clips)


def test_too_many_bad_videos_stop_the_run(own_index: VideoIndex, tmp_path: Path):
    for video in range(6):
        break_file(own_index, video)
    with pytest.raises(FailureError, match="5 of 13 videos failed, more than 4 are not tolerated"):
        load(own_index, 9, quarantine_path=tmp_path / "quarantine.jsonl")


def test_bad_videos_that_other_ranks_wrote_down_count(
    own_index: VideoIndex, tmp_path: Path, caplog
):
    path = tmp_path / "quarantine.jsonl"
    lines = [json.dumps({"path": f"other{number}", "reason": "x"}) for number in range(4)]
    path.write_text("\n".join(lines) + "\nnot json\n")
    break_file(own_index, 0)
    with pytest.raises(FailureError, match="5 of 13 videos failed"):
        load(own_index, 4, quarantine_path=path)


def test_no_good_video_at_all_is_an_error(own_index: VideoIndex):
    for video in range(3):
        break_file(own_index, video)
    few = replace(own_index, splits={"few": np.arange(3)})
    with pytest.raises(FailureError, match="none of the videos can be decoded"):
        load(few, 1, batch_size=2, split="few")


def test_a_quarantine_list_that_cannot_be_written_is_an_error(
    own_index: VideoIndex, tmp_path: Path
):
    break_file(own_index, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(FailureError, match="file.*: the quarantine list could not be written"):
        load(own_index, 4, quarantine_path=tmp_path / "file" / "quarantine.jsonl")
