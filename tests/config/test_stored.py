"""The settings of runs that older versions wrote."""

import pytest

from fastdual.config.sections import PretrainConfig, resolve
from fastdual.config.stored import supported
from fastdual.errors import InputError

DEFAULTS = PretrainConfig()
YOUNGER = (
    "clip.contrast_about",
    "model.batch_norm_views",
    "loss.clip_weight",
    "loss.coherence_weight",
    "loss.rank_weight",
)


def test_a_key_that_is_retired_is_read_from_stored_runs_and_refused_as_a_setting() -> None:
    stored = {**DEFAULTS.to_dict(), "optimiser.shard_state": "on"}
    assert PretrainConfig.from_dict(stored, origin="step-00000001.pt") == DEFAULTS
    with pytest.raises(InputError, match="unknown key 'optimiser.shard_state'"):
        resolve([], ["optimiser.shard_state=on"])


def test_a_run_without_a_younger_setting_keeps_its_own_meaning() -> None:
    plain = resolve([], ["loss.objective=clip"]).config
    old = {key: value for key, value in plain.to_dict().items() if key not in YOUNGER}
    config = PretrainConfig.from_dict(old, origin="config.toml")
    assert (config.clip.contrast_about, config.model.batch_norm_views) == ("128", "all")
    assert config.clip.views == (0, 1, 2, 3)  # its batch norm saw them all
    assert config.loss == plain.loss


def test_what_a_stored_run_says_stands() -> None:
    values = resolve([], ["loss.clip_weight=0.5"]).config.to_dict()
    assert supported(values) == values
    assert supported({"model.weights": "x", "clip.short_start": "random"}) == {
        "model.weights": "x",
        "clip.short_start": "random",
        "clip.contrast_about": "128",
    }
    assert supported({"model.backbone": "tiny"}) == {"model.backbone": "tiny"}  # no run
