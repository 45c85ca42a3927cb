"""The recipe of DALI's graph draws nothing itself."""

import pytest

from fastdual.loaders.plan import ClipSpec

pytestmark = pytest.mark.needs("nvidia.dali")


def test_the_graph_has_no_random_operator() -> None:
    from fastdual.loaders.views.pipeline import clip_pipeline

    pipeline = clip_pipeline(
        ClipSpec(), source="encoded", device="cpu", batch_size=1, num_threads=1
    )
    pipeline.build()
    operators = pipeline.serialize()  # names every operator's schema
    assert b"SequenceRearrange" in operators and b"Filter" in operators
    assert b"random" not in operators  # DALI's random operators are all named random__*
