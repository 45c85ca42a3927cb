"""Random words against numpy's own generator."""

import numpy as np
import pytest

from fastdual.loaders.plan.random_words import random_words


@pytest.mark.parametrize("key", [(0, 0), (7, 5), (2**64 - 1, 2**63 + 3)])
def test_each_row_has_a_stream_of_its_own(key):
    rows = np.array([0, 1, 5, 10**12])
    words = random_words(key, rows, 11)
    for row, ours in zip(rows, words, strict=True):
        counter = np.array([0, row, 0, 0], np.uint64)
        stream = np.random.Philox(key=np.array(key, np.uint64), counter=counter)
        assert np.array_equal(ours, stream.random_raw(11))
