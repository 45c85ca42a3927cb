"""Settings, as an op is given them."""

import itertools

from fastdual.kernels.contrastive.problem import (
    POSITIVES,
    PRECISIONS,
    REDUCTIONS,
    Layout,
    Settings,
)


def test_settings_survive_as_numbers() -> None:
    flags = (False, True)
    choices = itertools.product(
        POSITIVES, REDUCTIONS, flags, PRECISIONS, flags, flags, flags, (None, Layout(2, 3, 4))
    )
    for chosen in choices:
        settings = Settings(*chosen)
        numbers = settings.encode()
        assert all(type(number) is int for number in numbers)
        assert Settings.decode(numbers) == settings
