"""Variance between and within videos, against numbers whose parts are known."""

import pytest
import torch

from fastdual.evaluate.variance import variance


def _rows(
    *, inter: float, intra: float, place: float, videos: int = 4000, of: int = 4
) -> torch.Tensor:
    """Embeddings so near to one direction that normalising them changes almost nothing."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, 8, generator=generator, dtype=torch.float64)

    rows = inter * noise(videos, 1) + intra * noise(videos, of) + place * noise(1, of)
    rows[..., 0] = 1.0  # the direction: 7 axes vary
    return rows


@pytest.mark.parametrize(("inter", "intra"), [(0.02, 0.01), (0.005, 0.02), (0.0, 0.01)])
def test_parts_are_told_apart_whatever_a_place_has_in_common(inter: float, intra: float) -> None:
    found = variance(_rows(inter=inter, intra=intra, place=0.02))
    assert found.intra == pytest.approx(7 * intra**2, rel=0.05)
    # Without the correction, videos that are all alike would seem to differ by intra / K.
    assert found.inter == pytest.approx(7 * inter**2, rel=0.1, abs=7 * intra**2 / 50)


def test_length_of_an_embedding_does_not_count() -> None:
    rows = _rows(inter=0.3, intra=0.1, place=0.0, videos=50)
    scaled = rows * torch.rand(50, 4, 1, dtype=torch.float64).add(0.5)
    assert variance(scaled).ratio == pytest.approx(variance(rows).ratio)


def test_videos_that_are_all_alike_have_no_ratio() -> None:
    assert variance(torch.ones(5, 3, 4)).ratio is None


def test_one_embedding_a_video_is_refused() -> None:
    with pytest.raises(ValueError, match=r"embeddings are \[5, 1, 4\]"):
        variance(torch.ones(5, 1, 4))
