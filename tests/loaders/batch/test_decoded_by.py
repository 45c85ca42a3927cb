"""Who decoded what was shown is counted and told."""

from fastdual.loaders.batch.decoded_by import DecodedBy
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from tests.loaders.loading import SPEC


def test_counts_are_told_with_reasons() -> None:
    decoded = DecodedBy()
    assert str(decoded) == "nothing yet"
    decoded.add([("nvdec", "")] * 3 + [("pyav", "NVDEC decodes no flv1")])
    assert str(decoded) == "nvdec 3, pyav 1; in place of another: NVDEC decodes no flv1 (1)"
    assert decoded.to_dict() == {
        "decoders": {"nvdec": 3, "pyav": 1},
        "substituted": {"NVDEC decodes no flv1": 1},
    }
    again = DecodedBy.of([decoded.to_dict(), decoded.to_dict(), {"decoders": [1], "event": "x"}])
    assert again.decoders == {"nvdec": 6, "pyav": 2}


def test_a_loader_counts_what_it_has_shown(index: VideoIndex) -> None:
    with ClipLoader(index, SPEC, batch_size=4, num_workers=1) as loader:
        batches = [next(iter(loader)) for _ in range(2)]
        assert loader.decoded_by.to_dict() == {"decoders": {"pyav": 8}, "substituted": {}}
    assert all(batch.decoders == ("pyav",) * 4 for batch in batches)
