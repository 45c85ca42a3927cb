"""A spec refuses what cannot work, and knows its views."""

from dataclasses import replace

import pytest

from fastdual.errors import InputError
from fastdual.loaders.plan.clip_spec import ALL_VIEWS, ClipSpec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "train"}, "mode = 'train': choose pretrain, finetune, evaluate"),
        ({"contrast_about": "grey"}, "contrast_about = 'grey': choose mean, 128"),
        ({"views": (0, 3)}, r"views \(0, 3\): choose one of \(0, 1\), "),
        ({"frames_per_clip": 15}, "15 is not divisible by num_segments 2"),
        ({"frame_stride": 0}, "frame_stride = 0: must be"),
        ({"frames_per_clip": 16.0}, "frames_per_clip = 16.0: must be"),
        ({"crop_size": 130}, "crop_size 130 is larger than the resized frame 128x171"),
        ({"jitter_probability": 1.5}, "jitter_probability = 1.5: must"),
        ({"brightness": (1.0, 0.5)}, r"brightness = \(1.0, 0.5\)"),
        ({"blur_sigma": (0.1, 40.0)}, "blur_sigma 40.0 reaches beyond the crop"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        replace(ClipSpec(), **values)


def test_views_of_pretraining_are_those_that_are_asked_for():
    assert ClipSpec().views == ALL_VIEWS and ClipSpec().view_clip == (0, 1, 0)
    assert [ClipSpec(views=views).num_views for views in (ALL_VIEWS, (0, 1), (0, 2, 3))] == [
        4,
        2,
        3,
    ]
    assert ClipSpec(mode="finetune").num_views == 1
    assert ClipSpec(mode="evaluate", clips_per_video=7).num_views == 7
