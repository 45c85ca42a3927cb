"""Failures of DALI: the reason is found in its message, and memory is told apart."""

import pytest

from fastdual.loaders.batch.graphs import GraphFailure, explain

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
