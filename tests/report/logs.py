"""A run's log with a few readings."""

import json
from pathlib import Path


def write_log(run: Path, readings: int, *, broken_line: bool = False) -> Path:
    run.mkdir()
    lines = [json.dumps({"event": "start", "step": 0, "time": 1.0})]
    for i in range(readings):
        values = {"loss": 8 / (i + 1), "clip": None if i == 1 else 1.0, "clip_top1": i / readings}
        lines.append(json.dumps({"event": "train", "step": i, "epoch": i / 2, **values}))
    text = "\n".join(lines) + "\n"
    (run / "log.jsonl").write_text(text + ('{"event": "tr' if broken_line else ""))
    return run
