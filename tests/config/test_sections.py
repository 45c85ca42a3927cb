"""The config of pretraining: its defaults, its checks, the keys that a run may change."""

import dataclasses
from dataclasses import replace

import pytest

from fastdual.config.recipe import flatten, read_recipe
from fastdual.config.sections import FIXED_KEYS, LossConfig, PretrainConfig, resolve
from fastdual.config.stored import RESUME_KEYS
from fastdual.errors import InputError
from fastdual.kernels.objective import Objective

DEFAULTS = PretrainConfig()


def with_settings(*settings: str) -> PretrainConfig:
    return resolve([], settings).config


def test_defaults_are_the_paper_recipe_with_weights_of_1_and_no_clamp() -> None:
    paper = resolve([read_recipe("paper-simclr")]).config
    loss = replace(DEFAULTS.loss, clip_weight=0.125, rank_clip=5.0)  # as the released code trained
    run = replace(DEFAULTS.run, keep_every_epochs=10)
    assert paper == replace(DEFAULTS, loss=loss, run=run)
    assert (paper.optimiser.learning_rate, paper.optimiser.weight_decay) == (0.003, 1e-4)
    assert (paper.schedule.epochs, paper.schedule.milestones) == (200, (120, 160))
    assert (paper.clip.frames_per_clip, paper.clip.frame_stride, paper.data.batch_size) == (
        16,
        4,
        64,
    )
    assert paper.loss.objective == "clip+rank+coherence"


def test_an_objective_is_known_by_its_name() -> None:
    config = LossConfig(objective="clip+rank")
    assert config.objective is Objective.CLIP_RANK
    assert type(with_settings("loss.objective=clip").to_dict()["loss.objective"]) is str
    with pytest.raises(InputError, match="must be one of clip, rank, coherence, clip.rank, "):
        with_settings("loss.objective=order")


def test_a_weight_of_0_is_refused_with_the_remedy() -> None:
    assert with_settings("loss.clip_weight=0.125").loss.clip_weight == 0.125
    for value in ("0", "-1", "inf"):
        with pytest.raises(InputError, match=r"rank_weight = .*take it out of loss.objective"):
            with_settings(f"loss.rank_weight={value}")


def test_only_views_that_the_objective_compares_are_loaded() -> None:
    assert with_settings().clip.views == (0, 1, 2, 3)
    assert with_settings("loss.objective=clip").clip.views == (0, 1)
    assert with_settings("loss.objective=rank").clip.views == (0, 2, 3)
    everything = ("loss.objective=clip", "model.batch_norm_views=all")
    assert with_settings(*everything).clip.views == (0, 1, 2, 3)
    with pytest.raises(InputError, match=r"unknown key 'clip.views'"):
        with_settings("clip.views=[0, 1]")


def test_one_segment_is_fine_without_ranking() -> None:
    config = with_settings("clip.num_segments=1", "loss.objective=clip")
    assert config.clip.num_segments == 1


def test_a_key_that_may_be_none_defaults_to_none() -> None:
    """Otherwise a TOML file, which leaves None out, could not say it."""
    for section in dataclasses.fields(PretrainConfig):
        section_type = type(getattr(DEFAULTS, section.name))
        for entry in dataclasses.fields(section_type):
            if "None" in str(entry.type):
                assert entry.default is None, f"{section.name}.{entry.name}"


def test_fixed_and_resume_keys_exist() -> None:
    assert set(flatten(DEFAULTS)) >= FIXED_KEYS | RESUME_KEYS


def test_config_survives_a_checkpoint_dict() -> None:
    config = with_settings("clip.hue_degrees=-1,1", "data.num_workers=3")
    assert PretrainConfig.from_dict(config.to_dict(), origin="x") == config
