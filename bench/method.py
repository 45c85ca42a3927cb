"""Does the method do what its paper says? The three objectives, trained and measured alike.

    python -m bench.method [--data NAME=PATH ...] [--seeds 3] [--steps 320] [--recipe tiny]
    python -m bench.method ... --contestants clip --set loss.clip_temperature=0.07

Trains `clip`, `clip+rank` and `clip+rank+coherence` on the split `train` of each data set, with the
same budget and seeds, and measures them on `test`: retrieval, linear probe, variance within and
between videos, rank accuracy. An untrained network and two baselines, which see only pixels, are
measured too. NAME=PATH is a folder, a CSV, an index or a pack; `demo` alone is the demo set.

The second command measures only some contestants. If only settings of their losses differ, they go
into the table of the others, so that plain contrast may have a temperature of its own.

Each row is written once it is measured, and existing rows are not measured again, so the command
may be stopped and repeated. Writes OUT.json, OUT.csv, OUT.png, and OUT.txt with the conclusion.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from bench.parts.method.run import (
    BASELINES,
    CONTESTANTS,
    OBJECTIVES,
    Budget,
    chances,
    evaluate,
    make_network,
)
from bench.parts.method.summary import conclude, draw, one_line
from bench.parts.method.tables import is_way
from bench.parts.results import RESULTS, Row, describe_machine, read_rows, write_rows
from fastdual.demo.videos import DemoSet, write_demo
from fastdual.evaluate.hygiene import index_overlaps, settle_overlaps
from fastdual.loaders import files
from fastdual.loaders.index import VideoIndex, open_index

# Rows that agree in these columns are the same row.
_KEY = ("data", "fingerprint", "contestant", "seed", "budget", "clips_per_video")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the missing rows, then write the picture and the conclusion."""
    options = _parse(arguments)
    sets = [_open(text, options.work) for text in options.data or ["demo"]]
    budget = Budget(recipe=options.recipe, steps=options.steps, settings=tuple(options.settings))
    rows = read_rows(options.out.with_suffix(".json"))
    for name, index in sets:
        settle_overlaps([index_overlaps(index, "train", "test")], allowed=options.allow_overlap)
        for contestant, seed in _schedule(options.contestants, options.seeds):
            plan = _plan(name, index, contestant, seed, budget, options.clips_per_video)
            if any(all(row[key] == plan[key] for key in _KEY) for row in rows):
                continue
            row = _measure(plan, index, budget, options)
            rows.append(row)
            write_rows(rows, options.out)
            print(one_line(row), flush=True)
    text = conclude(rows)
    files.write(options.out.with_suffix(".txt"), text + "\n", "the conclusion")
    draw(rows, options.out.with_suffix(".png"))
    print(text)


def _schedule(contestants: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """Return contestants and seeds, seed by seed, so that the command may be stopped anywhere."""
    cheap = [(contestant, 0) for contestant in BASELINES if contestant in contestants]
    others = [name for name in CONTESTANTS if name in contestants and name not in BASELINES]
    return cheap + [(contestant, seed) for seed in range(seeds) for contestant in others]


def _plan(
    name: str, index: VideoIndex, contestant: str, seed: int, budget: Budget, clips: int
) -> Row:
    """Return the first columns of a row: what is measured, and what identifies the row."""
    train, test = (len(index.split(split)) for split in ("train", "test"))
    config = budget.resolve(objective=OBJECTIVES[-1], seed=0, num_videos=train).config
    kept = {key: value for key, value in config.to_dict().items() if not is_way(key)}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
    return {
        "data": name,
        "contestant": contestant,
        "seed": seed,
        "train_videos": train,
        "test_videos": test,
        "clips_per_video": clips,
        "recipe": budget.recipe,
        "settings": " ".join(budget.settings),
        "budget": digest,
        "fingerprint": index.fingerprint,
    }


def _measure(plan: Row, index: VideoIndex, budget: Budget, options: argparse.Namespace) -> Row:
    start = time.perf_counter()
    contestant, seed = plan["contestant"], plan["seed"]
    digest = hashlib.sha256(f"{plan['fingerprint']} {plan['budget']}".encode()).hexdigest()[:8]
    run = options.work / "runs" / f"{plan['data']}-{contestant.replace('+', '-')}-{seed}-{digest}"
    network, steps = make_network(contestant, seed, index, budget, run)
    trained = time.perf_counter()
    measures = evaluate(network, index, clips_per_video=plan["clips_per_video"])
    guesses = chances(index, network.config)
    return {
        **plan,
        "backbone": "" if contestant in BASELINES else network.config.model.backbone,
        "steps": steps,
        "batch_size": network.config.data.batch_size,
        **measures,
        **{f"chance_{name}": value for name, value in guesses.items()},
        "train_seconds": round(trained - start, 1),
        "evaluate_seconds": round(time.perf_counter() - trained, 1),
        **describe_machine(torch.device(network.device)),
    }


def _open(text: str, work: Path) -> tuple[str, VideoIndex]:
    name, _, path = text.partition("=")
    if path:
        return name, open_index(Path(path))
    if name != "demo":
        raise SystemExit(f"--data {text}: write NAME=PATH, or demo for the demo set")
    folder = work / "demo"
    if not (folder / "videos.csv").exists():
        for _ in write_demo(folder, DemoSet()):
            pass
    return "demo", open_index(folder / "videos.csv")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", action="append", metavar="NAME=PATH", help="default: demo")
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS, metavar="NAME"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=320, help="per training run")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--clips-per-video", type=int, default=10, help="for the features")
    parser.add_argument("--allow-overlap", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "method")
    parser.add_argument("--work", type=Path, default=Path("build/bench-method"))
    options = parser.parse_args(arguments)
    if min(options.seeds, options.steps, options.clips_per_video) < 1:
        parser.error("--seeds, --steps and --clips-per-video must be at least 1")
    return options


if __name__ == "__main__":
    main()
