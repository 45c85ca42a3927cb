"""The config of pretraining: its defaults, its checks, the keys that a run may change."""

import dataclasses

import pytest

from fastdual.config.recipe import flatten, read_recipe
from fastdual.config.sections import FIXED_KEYS, RESUME_KEYS, LossConfig, PretrainConfig, resolve
from fastdual.errors import InputError
from fastdual.kernels.objective import Objective

DEFAULTS = PretrainConfig()


def with_settings(*settings: str) -> PretrainConfig:
    return resolve([], settings).config


def test_defaults_are_the_paper_recipe() -> None:
    assert resolve([read_recipe("paper-simclr")]).config == DEFAULTS
    paper = DEFAULTS
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
    with pytest.raises(InputError, match="must be one of clip, clip.rank, clip.rank.coherence"):
        with_settings("loss.objective=rank")


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


def test_a_key_that_is_retired_is_read_from_stored_runs_and_refused_as_a_setting() -> None:
    stored = {**DEFAULTS.to_dict(), "optimiser.shard_state": "on"}
    assert PretrainConfig.from_dict(stored, origin="step-00000001.pt") == DEFAULTS
    with pytest.raises(InputError, match="unknown key 'optimiser.shard_state'"):
        with_settings("optimiser.shard_state=on")


def test_config_survives_a_checkpoint_dict() -> None:
    config = with_settings("clip.hue_degrees=-1,1", "data.num_workers=3")
    assert PretrainConfig.from_dict(config.to_dict(), origin="x") == config
