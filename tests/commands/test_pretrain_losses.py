"""`fastdual pretrain --losses`: what the flag changes, and that it changes no number."""

from pathlib import Path

import pytest

from tests.runs import arguments, invoke, read_log, write_index

# Of one step: from the next on, batch norm over few clips multiplies the last bits.
COMPARED = "loss", "clip", "coherence", "rank", "spread", "gradient_norm"


def test_eager_losses_train_on_a_cpu_and_start_as_auto_does(tmp_path: Path) -> None:
    index = write_index(tmp_path, count=8)
    first = {}
    for losses in ("auto", "eager"):
        run = tmp_path / losses
        result = invoke(
            arguments(
                index, run, "--losses", losses, "--seed", "3",
                schedule__epochs=1, schedule__milestones="[]",
            )
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert f"--losses {losses}" in result.stderr
        assert len(list((run / "checkpoints").iterdir())) > 0
        first[losses], *others = read_log(run, "train")
        assert first[losses]["step"] == 1 and len(others) == 1
    for name in COMPARED:
        assert first["eager"][name] == pytest.approx(first["auto"][name], rel=1e-5), name


def test_kernels_where_they_cannot_run_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    index = write_index(tmp_path, count=4)
    result = invoke(arguments(index, tmp_path / "run", "--losses", "fused"))
    assert result.exit_code == 2
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert "--losses fused: the kernels need Triton and a CUDA device, this run is on cpu" in error
    assert not (tmp_path / "run").exists()
