"""docs/scale.md: its numbers follow from its inputs by its formulas, and what it counts is so."""

import pytest
import torch
from torch import nn

from bench.parts.train.case import Size
from bench.parts.train.figures import training_gflop
from fastdual.config import PretrainConfig
from fastdual.model.dual import create_model
from tests.conftest import PROJECT

PAGE = (PROJECT / "docs" / "scale.md").read_text()
WORLDS = (1, 8, 64)
CELLS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ")
]


def number(text: str) -> float:
    return float(text.replace(",", ""))


INPUTS = {cells[0].strip("`"): number(cells[1]) for cells in CELLS if cells[0].startswith("`")}
RESULTS = [cells for cells in CELLS if cells[1].startswith("`")]
FORMULAS = {cells[1].strip("`"): cells[2].strip("`") for cells in RESULTS if len(cells) == 6}


def values(world: int, **changed: float) -> dict[str, float]:
    names = {**INPUTS, **changed, "W": world, "max": max}
    for name, formula in FORMULAS.items():
        names[name] = eval(formula, {"__builtins__": {}}, names)
    return names


@pytest.mark.parametrize(("columns", "shared"), [(6, False), (5, True)])
def test_every_number_follows_from_the_formulas(columns: int, shared: bool) -> None:
    rows = [cells for cells in RESULTS if len(cells) == columns]
    assert len(rows) > 4
    for world, column in zip(WORLDS, (-3, -2, -1), strict=True):
        found = values(world, **({"videos": 64 / world} if shared else {}))
        for cells in rows:
            digits = len(cells[column].partition(".")[2])
            assert f"{found[cells[1].strip('`')]:,.{digits}f}" == cells[column], (world, cells)


def test_what_is_counted_is_that_of_the_network() -> None:
    config = PretrainConfig()
    with torch.device("meta"):
        model = create_model(config)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert INPUTS["weights"] == sum(weight.numel() for weight in model.parameters())
    assert INPUTS["norms"] == len(norms)
    assert INPUTS["channels"] == sum(norm.num_features for norm in norms)
    assert INPUTS["embedding"] == 2 * (config.model.clip_dim + config.model.segment_dim)
    clip = config.clip
    assert (INPUTS["frames"], INPUTS["videos"]) == (clip.frames_per_clip, config.data.batch_size)
    size = Size(batch=1, frames=clip.frames_per_clip, crop=clip.crop_size)
    gflop = training_gflop(config.model.backbone, size)
    assert INPUTS["gflop"] == pytest.approx(gflop, abs=0.005)
