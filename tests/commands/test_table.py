"""`fastdual table` as it is typed: where the table goes."""

from pathlib import Path

from fastdual.evaluate.results import make_result, write_result
from tests.runs import invoke


def result_file(path: Path) -> Path:
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    split = {
        "train": "train",
        "test": "test",
        "num_train": 20,
        "num_test": 8,
        "left_out": {"test": []},
        "metrics": {"top1": metric},
        "overlaps": [],
    }
    result = make_result(
        task="probe",
        command="fastdual probe run x.h5",
        weights_sha256="ab" * 32,
        data_fingerprint="cd" * 32,
        settings={"backbone": "tiny"},
        splits=[split],
    )
    write_result(path, result)
    return path


def test_table_is_written_into_a_folder_that_is_made(tmp_path: Path) -> None:
    file, output = result_file(tmp_path / "a.json"), tmp_path / "new" / "table.md"
    done = invoke(["table", str(file), "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{output}: 1 rows\n"
    assert output.read_text() == invoke(["table", str(file)]).stdout
    assert "| a | abababab | probe | tiny | test | 8 | 50.0 [40.0, 60.0] |" in output.read_text()


def test_table_that_cannot_be_written_says_what_and_why(tmp_path: Path) -> None:
    file = result_file(tmp_path / "a.json")
    for folder in (file, file / "b"):
        done = invoke(["table", str(file), "-o", str(folder / "x.md")])
        assert done.exit_code == 2
        assert done.stderr == (
            f"Error: {folder / 'x.md'}: {file} is no folder; name another place for the table\n"
        )
