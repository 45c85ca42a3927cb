"""Failures of DALI: the reason is found in its message, and memory is told apart."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastdual.loaders.batch.graphs import GraphFailure, explain, leave_memory

REAL = """Critical error in pipeline:
Critical error in pipeline:
Error in CPU operator `nvidia.dali.fn.decoders.video`,
which was used in the pipeline definition with the following traceback:

  File "/a/pipeline.py", line 8, in clip_pipeline
    return fn.decoders.video(fn.external_source(name="encoded"), device="cpu")

encountered:

Assert on "frames_decoders_[s]->IsValid()" failed: Failed to create video decoder for "memory file"
C++ context: [/opt/dali/dali/operators/video/decoder/video_decoder_base.h:246]
Current pipeline object is no longer valid.
Current pipeline object is no longer valid."""
MEMORY = """Critical error in pipeline:
CUDA allocation failed: out of memory
Current pipeline object is no longer valid."""


@pytest.mark.parametrize(
    ("message", "reason", "is_memory"),
    [
        (REAL, 'Failed to create video decoder for "memory file"', False),
        (MEMORY, "CUDA allocation failed: out of memory", True),
        ("[/opt/dali/x.cc:12] CUDA error 46", "CUDA error 46", False),
        ("std::bad_alloc", "std::bad_alloc", True),
        ("", "", False),
    ],
)
def test_what_happened_is_found_in_the_message(message: str, reason: str, is_memory: bool) -> None:
    failure = GraphFailure(RuntimeError(message))
    assert (str(failure), failure.is_memory) == (reason, is_memory)
    assert explain(message) == reason


@pytest.mark.parametrize(("gib", "share"), [(16, 1 / 8), (80, 4 / 80), (140, 4 / 140)])
def test_a_share_of_a_gpus_memory_stays_dalis(
    gib: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    gpu = SimpleNamespace(total_memory=gib << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: told.append(given)
    )
    leave_memory(torch.device("cpu"))
    leave_memory(torch.device("cuda", 1))
    assert told == [(pytest.approx(1 - share), torch.device("cuda", 1))]
