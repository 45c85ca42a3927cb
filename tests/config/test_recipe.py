"""Recipes, settings and the config that they make."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdual.config import PretrainConfig, resolve
from fastdual.config.recipe import parse_toml, read_recipe, recipe_names, to_toml
from fastdual.errors import InputError

DEFAULTS = PretrainConfig()


def with_settings(*settings: str) -> PretrainConfig:
    return resolve([], settings).config


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_is_valid(name: str) -> None:
    origin, values = read_recipe(name)
    resolved = resolve([(origin, values)])
    assert {key for key, source in resolved.sources.items() if source == origin} == set(values)


def test_layers_win_in_order_and_every_value_knows_its_origin() -> None:
    layers = [
        ("recipe a", {"run.seed": 1, "data.batch_size": 8, "schedule.epochs": 3}),
        ("--epochs", {"schedule.epochs": 4}),
    ]
    resolved = resolve(layers, ["run.seed=7", "schedule.milestones=[1, 2]"])
    assert (resolved.config.run.seed, resolved.config.data.batch_size) == (7, 8)
    assert resolved.config.schedule.epochs == 4
    assert resolved.config.schedule.milestones == (1, 2)
    origins = {key: resolved.sources[key] for key in ("run.seed", "data.batch_size")}
    assert origins == {"run.seed": "--set", "data.batch_size": "recipe a"}
    assert resolved.sources["schedule.epochs"] == "--epochs"
    assert resolved.sources["model.backbone"] == "default"


def test_every_key_can_be_set_from_a_text() -> None:
    for key, value in DEFAULTS.to_dict().items():
        text = str(list(value) if isinstance(value, tuple) else value)
        text = {"None": "none", "False": "false"}.get(text, text)
        assert with_settings(f"{key}={text}") == DEFAULTS


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimiser.learning_rat=1", "did you mean optimiser.learning_rate?"),
        ("batch_size=3", "did you mean data.batch_size?"),
        ("nonsense=1", "keys are written section.key"),
        ("clip.mode=finetune", "clip.mode"),
        ("run.seed", "write it as section.key=value"),
        ("data.batch_size=1.5", "data.batch_size = 1.5: must be a whole number"),
        ("data.batch_size=many", "must be a whole number"),
        ("data.batch_size=1", "a contrast needs 2 videos"),
        ("optimiser.max_gradient_norm=x", "must be a number or none"),
        ("optimiser.learning_rate=nan", "must be positive and finite"),
        ("optimiser.name=adam", "must be one of sgd, "),
        ("clip.hue_degrees=1,2,3", "must be a list of 2 numbers"),
        ("clip.num_segments=3", "not divisible by num_segments 3"),
        ("clip.num_segments=1", "ranking needs 2 segments"),
        ("schedule.milestones=9,3", "must be rising epochs"),
        ("schedule.warmup_epochs=-1", "must be 0 or more"),
        ("run.compile=maybe", "must be one of auto, on, max-autotune, cuda-graphs, off"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_key_and_rule(setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        with_settings(setting)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--set" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "schedule.milestones=5,3",
            "schedule.milestones = (5, 3): must be rising epochs from 1 on "
            "(schedule.milestones from --set)",
        ),
        (
            "clip.resize_height=60",
            "crop_size 64 is larger than the resized frame 60x171; crop less or resize to more "
            "(clip.crop_size from recipe x, clip.resize_height from --set)",
        ),
        (
            "clip.num_segments=3",
            "frames_per_clip 16 is not divisible by num_segments 3; choose a number of segments "
            "that divides it (clip.num_segments from --set)",
        ),
    ],
)
def test_an_error_names_the_origins_of_its_keys_and_of_no_others(
    setting: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        resolve([("recipe x", {"schedule.epochs": 9, "clip.crop_size": 64})], [setting])
    assert str(caught.value) == message


def test_recipe_values_are_typed_texts_are_not_numbers() -> None:
    rule = r"data.batch_size = '64': must be a whole number \(data.batch_size from recipe x\)"
    with pytest.raises(InputError, match=rule):
        resolve([("recipe x", {"data.batch_size": "64"})])
    with pytest.raises(InputError, match="must be true or false|must be a whole number"):
        resolve([("recipe x", {"data.batch_size": True})])


def test_recipe_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[data\nbatch_size = 3")
    with pytest.raises(InputError, match=r"mine\.toml: not valid TOML"):
        read_recipe(str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a recipe"):
        read_recipe(str(file))
    file.write_text("[data]\nbatch_sise = 3\n")
    unknown = r"unknown key 'data.batch_sise'; .* \(from recipe mine\.toml\)"
    with pytest.raises(InputError, match=unknown):
        resolve([read_recipe(str(file))])
    with pytest.raises(
        InputError, match="neither a file nor one of the recipes paper-finetune-k400, .*tiny"
    ):
        read_recipe("papr")


@given(
    st.floats(min_value=1e-300, max_value=1e300),
    st.text(max_size=30),
    st.lists(st.integers(1, 10**6), unique=True).map(sorted),
    st.one_of(st.none(), st.floats(min_value=1e-3, max_value=1e3)),
)
def test_config_survives_its_toml_file(
    rate: float, split: str, milestones: list[int], norm: float | None
) -> None:
    values: dict[str, Any] = {
        "optimiser.learning_rate": rate,
        "data.split": split,
        "schedule.milestones": tuple(milestones),
        "optimiser.max_gradient_norm": norm,
    }
    resolved = resolve([("recipe x", values)])
    text = to_toml(resolved.config.to_dict(), resolved.sources)
    assert resolve([("file", parse_toml(text, origin="file"))]).config == resolved.config


def test_a_config_shows_every_key_and_reads_back_the_same() -> None:
    text = to_toml(DEFAULTS.to_dict(), dict.fromkeys(DEFAULTS.to_dict(), "default"))
    assert "# num_workers = none  # default" in text
    for key in DEFAULTS.to_dict():
        assert f"{key.split('.')[1]} = " in text, key
    assert resolve([("x", parse_toml(text, origin="x"))]).config == DEFAULTS
