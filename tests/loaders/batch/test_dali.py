"""What DALI cannot decode costs few graphs, is named by its reason, and is left to PyAV or not."""

import threading
import time
from collections import Counter
from typing import Any

import pytest
import torch

from fastdual.errors import FailureError, InputError
from fastdual.loaders import loader as loader_module
from fastdual.loaders.batch import dali, routing
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.views.graph import ClipGraph
from tests.loaders.clips import encode
from tests.loaders.loading import SPEC, load

pytestmark = pytest.mark.needs("av", "nvidia.dali")

LENIENT = pytest.mark.usefixtures("dali_where_it_can")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the graphs built and the runs."""
    counts: Counter[str] = Counter()
    for name in ("__init__", "run"):
        monkeypatch.setattr(ClipGraph, name, counting(counts, name, getattr(ClipGraph, name)))
    return counts


def counting(counts: Counter[str], name: str, method: Any) -> Any:
    def counted(*args: Any, **options: Any) -> Any:
        counts[name] += 1
        return method(*args, **options)

    return counted


@pytest.fixture
def tries_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """DALI is given H.264 on a CPU, and fails: as NVDEC does with what nobody knew of."""
    monkeypatch.setattr(routing, "why_not_kind", lambda *_: None)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """48 H.264 videos of one kind."""
    folder = tmp_path_factory.mktemp("many")
    first = encode(folder / "00.mp4", 12)
    for number in range(1, 48):
        (folder / f"{number:02}.mp4").hardlink_to(first)
    return build_index(folder, tmp_path_factory.mktemp("index") / "x.h5", num_workers=1)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fastdual.loaders"]


@LENIENT
@pytest.mark.usefixtures("tries_everything")
def test_a_kind_that_fails_is_given_up_and_no_graph_is_built_per_video(
    many: VideoIndex, calls: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    with ClipLoader(many, SPEC, batch_size=8, num_workers=1) as loader:
        for _ in range(2):
            assert sum(len(batch) for batch in loader) == 48
    assert calls["__init__"] <= 8  # there were 48 and one for each chunk
    assert loader.decoded_by.decoders == {"pyav": 96}
    *files, kind = said(caplog)
    assert len(files) == 2 and all("Failed to create video decoder" in line for line in files)
    assert "PyAV decodes h264 High yuv420p 64x48 from here on, in place of dali-cpu" in kind
    assert "failed on 3 videos of it: Failed to create video decoder" in kind


@LENIENT
@pytest.mark.usefixtures("tries_everything")
def test_the_other_kinds_of_a_chunk_are_still_decoded(index: VideoIndex) -> None:
    with ClipLoader(index, SPEC, batch_size=12, num_workers=1) as loader:
        (batch,) = loader
    by_codec = {(index.codecs[v], d) for v, d in zip(batch.video_ids, batch.decoders, strict=True)}
    assert by_codec == {("h264", "pyav"), ("vp9", "dali-cpu")}
    (reason,) = {why for why in loader.decoded_by.substituted if "failed on 3" in why} or {""}
    assert "dali-cpu failed on 3 videos" in reason


@LENIENT
def test_a_decoder_that_never_works_is_turned_off(
    index: VideoIndex, calls: Counter[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def broken(*_: Any) -> None:
        raise RuntimeError("Error: libnvcuvid.so.1 cannot be opened\nCurrent pipeline object is no")

    # Every video is a kind of its own, as in a data set of many sizes.
    monkeypatch.setattr(routing, "kinds_of", lambda index: list(range(len(index))))
    monkeypatch.setattr(routing, "why_not_kind", lambda *_: None)
    monkeypatch.setattr(ClipGraph, "run", broken)
    with ClipLoader(index, SPEC, batch_size=12, num_workers=1) as loader:
        assert sum(len(batch) for epoch in range(3) for batch in loader) == 36
    assert calls["__init__"] <= 14
    assert said(caplog)[-1] == (
        "dali-cpu does not work here: Error: libnvcuvid.so.1 cannot be opened; "
        "PyAV decodes everything from here on"
    )


@LENIENT
def test_memory_that_runs_out_makes_chunks_smaller_and_is_said_once(
    index: VideoIndex, calls: Counter[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = ClipGraph.run

    def small(self: ClipGraph, plan: Any, *rest: Any) -> Any:
        if len(plan) > 2:
            raise RuntimeError("Critical error in pipeline:\nCUDA allocation failed: out of memory")
        return run(self, plan, *rest)

    monkeypatch.setattr(ClipGraph, "run", small)
    with ClipLoader(index, SPEC, batch_size=12, num_workers=1) as loader:
        for _ in range(4):
            list(loader)
    assert loader.decoded_by.decoders["dali-cpu"] > 20
    assert set(loader.decoded_by.substituted) == {"DALI decodes no h264 on a CPU"}
    assert calls["__init__"] <= 4
    lines = [line for line in said(caplog) if "memory ran out" in line]
    assert len(lines) == 1 and "it gets half as many from here on" in lines[0]


@LENIENT
def test_chunks_go_on_into_the_next_batch(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DALI gets as many videos at a time as it may, however small the batches are."""
    whole = load(index, 1, batch_size=12)
    sizes = []
    run = ClipGraph.run

    def counted(self: ClipGraph, plan: Any, *rest: Any) -> Any:
        sizes.append(len(plan))
        return run(self, plan, *rest)

    monkeypatch.setattr(ClipGraph, "run", counted)
    monkeypatch.setattr(loader_module, "available_cpus", lambda _: 6)
    small = load(index, 6, batch_size=2)
    assert torch.equal(torch.cat([batch.clips for batch in small]), whole[0].clips)
    decoders = [decoder for batch in small for decoder in batch.decoders]
    assert decoders == list(whole[0].decoders)
    # Chunks of six, of which DALI decodes what is VP9.
    by_dali = [decoder == "dali-cpu" for decoder in decoders]
    assert sizes[:2] == [sum(by_dali[:6]), sum(by_dali[6:])] and max(sizes[:2]) > 2


@LENIENT
def test_short_and_empty_batches_come_in_their_place(index: VideoIndex) -> None:
    """The last batch of 13 videos has one; of two ranks, the first gets none of it."""
    options: Any = {"batch_size": 4, "num_workers": 1, "shuffle": False, "drop_last": False}
    for rank, lengths in ((0, [2, 2, 2, 0]), (1, [2, 2, 2, 1])):
        with ClipLoader(index, SPEC, rank=rank, world_size=2, **options) as loader:
            batches = list(loader)
        assert [len(batch) for batch in batches] == lengths
        videos = [video for batch in batches for video in batch.video_ids.tolist()]
        first = [4 * step + 2 * rank + place for step in range(3) for place in range(2)]
        assert videos == first + [12] * rank


def test_chunks_are_cut_by_the_decoded_pixels(index: VideoIndex) -> None:
    class Every:
        def why_not(self, video: int) -> str | None:
            return "PyAV's" if video == 9 else None

    decoder: Any = dali.DaliDecoder(index, SPEC, *[Every()] * 3, lambda *_: None)
    rows: Any = [
        type("Row", (), {"video": video, "wanted": [0] * 24})() for video in (0, 1, 9, 2, 3, 4)
    ]
    one = 3 * 48 * 64 * (24 + 8)
    assert decoder.decoded_bytes(rows[0]) == one
    decoder._most_bytes = 2 * one
    cut = [[row.video for row in part] for part in decoder.cut(rows, 32)]
    assert cut == [[0, 1, 9], [2, 3], [4]]
    assert [len(part) for part in decoder.cut(rows, 1)] == [1] * 6
    decoder._most_bytes = 1
    cut = [[row.video for row in part] for part in decoder.cut(rows, 32)]
    assert cut == [[0], [1, 9], [2], [3], [4]]  # one is always taken
    decoder.close()


@pytest.mark.usefixtures("tries_everything")
def test_a_decoder_that_was_asked_for_has_no_substitute(many: VideoIndex) -> None:
    what = (
        r"decode dali-cpu was asked for and cannot be used: it failed on .*mp4 .*Failed to create"
    )
    with pytest.raises(FailureError, match=what):
        load(many, 1, decode="dali-cpu")


def test_files_that_it_cannot_decode_are_refused_before_the_run(index: VideoIndex) -> None:
    what = r"cannot decode 6 of 13 videos \(the first: .*\): 6: DALI decodes no h264 on a CPU; use"
    with pytest.raises(InputError, match=what):
        ClipLoader(index, SPEC, batch_size=4, decode="dali-cpu")


@LENIENT
def test_what_pyav_decodes_in_place_is_said_once_before_the_run(
    index: VideoIndex, caplog: pytest.LogCaptureFixture
) -> None:
    with ClipLoader(index, SPEC, batch_size=4, num_workers=1) as loader:
        for _ in range(2):
            list(loader)
    (line,) = said(caplog)
    assert "PyAV decodes 6 of 13 videos in place of dali-cpu" in line
    assert line.endswith("6: DALI decodes no h264 on a CPU")


@LENIENT
def test_dali_that_hangs_ends_in_a_named_error(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(ClipGraph, "run", lambda *_: ended.wait(60))
    started = time.monotonic()
    loader = ClipLoader(index, SPEC, batch_size=4, num_workers=1, timeout_seconds=3)
    with pytest.raises(FailureError, match=r"did not come back within 3 s from \d videos .*webm\)"):
        next(iter(loader))
    loader.close()
    ended.set()
    assert time.monotonic() - started < 30


@LENIENT
def test_every_row_is_right_wherever_the_search_put_it(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad video in a chunk: DALI decodes the others to the same bits, at their places."""
    right = load(index, 1, batch_size=12)[0]
    (bad,) = [v for v in right.video_ids.tolist() if index.codecs[v] == "vp9"][:1]
    run = ClipGraph.run

    def picky(self: ClipGraph, plan: Any, *rest: Any) -> Any:
        if bad in plan.videos:
            raise RuntimeError("bad picture")
        return run(self, plan, *rest)

    monkeypatch.setattr(ClipGraph, "run", picky)
    (ours,) = load(index, 1, batch_size=12)
    for row, video in enumerate(right.video_ids.tolist()):
        if video == bad:
            assert (right.decoders[row], ours.decoders[row]) == ("dali-cpu", "pyav")
        else:
            assert torch.equal(ours.clips[row], right.clips[row])
