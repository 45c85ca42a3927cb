"""The self-check of the decoders notices one that shows other frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdual.demo.encode import encode_video
from fastdual.doctor import decoders


def test_decoder_that_is_one_frame_off_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_late(path: Path, pictures: NDArray[np.uint8], **options: Any) -> None:
        encode_video(path, pictures[1:], **options)

    monkeypatch.setattr(decoders, "encode_video", encode_late)
    pyav, dali, nvdec = decoders.check_decoders(tmp_path, has_gpu=False)
    assert pyav.failed and "differs from what was encoded" in pyav.detail
    assert dali.status == "ok"
    assert nvdec.status == "unavailable"


def test_without_pyav_there_is_nothing_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no decoder")

    monkeypatch.setattr(decoders, "ClipLoader", broken)
    pyav, dali, _ = decoders.check_decoders(tmp_path, has_gpu=False)
    assert (pyav.status, pyav.detail) == ("wrong", "RuntimeError: no decoder")
    assert (dali.status, dali.detail) == ("unavailable", "nothing to compare with, PyAV failed")
