"""`fastdual embed` as it is typed."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.evaluate.features import FeatureSet
from fastdual.loaders.index import build_index
from tests.evaluate.small import damage, small_checkpoint, small_index_file

QUICK = ["--clips-per-video", "2", "--workers", "1", "--device", "cpu"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["embed", *map(str, arguments)])


def test_writes_the_features_of_a_split(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    done = run(small_checkpoint(), small_index_file(), "-o", output, "--split", "test", *QUICK)
    assert done.exit_code == 0, done.output
    features = FeatureSet.load(output)
    assert features.features.shape == (8, 128)
    weights = features.weights_sha256[:12]
    assert f"{output}: 8 videos x 128 features (weights {weights})" in done.stdout
    assert f"next        fastdual plot {output}" in done.stderr


def test_folder_of_videos_and_stride_and_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = tmp_path / "f.h5"
    videos = small_index_file().parent / "videos" / "disc-orbits"
    options = [*QUICK, "--stride", "1", "--random-weights"]
    done = run(small_checkpoint(), videos, "-o", output, *options)
    assert done.exit_code == 0, done.output
    features = FeatureSet.load(output)
    assert len(features) == 3
    assert features.settings["frame_stride"] == 1
    assert features.weights_sha256 == "random weights, seed 0"
    assert "(random weights, seed 0)" in done.stdout


def test_what_could_not_be_decoded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, videos = small_index_file().parent / "videos", tmp_path / "videos"
    for folder in ("disc-orbits", "ring-hops"):
        shutil.copytree(source / folder, videos / folder)
    index = build_index(videos, tmp_path / "x.h5", num_workers=1)
    damage(index.path(2))
    done = run(small_checkpoint(), tmp_path / "x.h5", "-o", tmp_path / "f.h5", *QUICK)
    assert done.exit_code == 0, done.output
    assert f"left out: {index.paths[2]} (could not be decoded)" in done.stdout
    (video,) = FeatureSet.load(tmp_path / "f.h5").left_out
    assert video.path == index.paths[2]


@pytest.mark.parametrize(
    ("run_path", "data", "options", "message"),
    [
        ("none", None, [], "none: no such run folder or checkpoint file"),
        (None, "none", [], "none does not exist"),
        (None, None, ["--split", "val"], "the index has no split 'val'; its splits: test, train"),
        (None, None, ["--device", "gpu"], "'gpu': must be auto, cpu, cuda"),
        (None, None, ["--clips-per-video", "0"], "--clips-per-video"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_path: str | None,
    data: str | None,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = run_path or small_checkpoint()
    done = run(source, data or small_index_file(), "-o", "f.h5", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "f.h5").exists()


def test_file_that_cannot_be_written_fails_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("none", small_index_file(), "-o", tmp_path / "file" / "f.h5")
    assert done.exit_code == 2
    assert "file is no folder; name another place for the features" in done.stderr


def test_swapped_arguments_are_explained(tmp_path: Path) -> None:
    done = run(small_index_file(), small_checkpoint(), "-o", tmp_path / "f.h5")
    assert done.exit_code == 2
    assert "index.h5: an index or pack of videos; name the run first" in done.stderr


def test_the_ending_chooses_the_format_and_a_video_is_data(tmp_path: Path) -> None:
    video = small_index_file().parent / "videos" / "disc-orbits"
    video = sorted(video.iterdir())[0]
    done = run(small_checkpoint(), video, "-o", tmp_path / "f.csv", *QUICK)
    assert done.exit_code == 0, done.output
    head, row = (tmp_path / "f.csv").read_text().splitlines()
    assert head.startswith("path,label,group,split,f0,f1,") and row.startswith(f"{video.name},,,,")


def test_an_unknown_ending_is_refused_before_the_work(tmp_path: Path) -> None:
    done = run(tmp_path / "no-run", tmp_path / "no-data", "-o", tmp_path / "f.txt")
    assert done.exit_code == 2
    assert "features are written as .h5, .hdf5, .npz, .csv, .parquet" in done.stderr
