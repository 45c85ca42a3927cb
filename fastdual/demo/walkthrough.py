"""The complete workflow on the demo videos: every command that a new user would type.

The commands run in this process exactly as typed, and are printed first, so that they can be
repeated on one's own videos. At the end, a table compares before and after: neighbours, the
pretext task, and fine-tuning with few labels, from random weights and from the pretrained ones.
"""

import csv
import io
import json
import shlex
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from fastdual.console import say, say_text
from fastdual.loaders.files import write

# The demo's videos are simpler than films of people: they are learned in the minutes that there are
# at a higher rate than the recipe's, with the paper's temperatures.
SETTINGS = (
    "--recipe", "tiny", "--set", "optimiser.learning_rate=1e-3",
    "--set", "loss.clip_temperature=0.07", "--set", "loss.coherence_temperature=0.07",
)  # fmt: skip
FINETUNING = ("--recipe", "tiny-finetune", "--epochs", "100")
_LABELS_PER_CLASS = 4


@dataclass(frozen=True)
class Row:
    """A measure as shares of the held-out videos; None where it has no such value."""

    measure: str
    chance: float | None
    untrained: float | None
    pretrained: float | None


def run_demo(folder: Path) -> None:
    """Index, pretrain, embed, score and plot FOLDER/videos, and print the table of it.

    A demo that was stopped continues from its last checkpoint.

    Args:
        folder: Holds `videos`; everything else is written beside them.
    """
    start = time.monotonic()
    index, run, plots = folder / "videos.h5", folder / "run", folder / "plots"
    before, after = folder / "features-untrained.h5", folder / "features.h5"
    _type("index", folder / "videos" / "videos.csv", "-o", index)
    _type("pretrain", index, "--run", run, *SETTINGS, "--resume")
    _type("embed", run, index, "-o", before, "--random-weights")
    _type("embed", run, index, "-o", after)
    _type("retrieve", after)
    _type("plot", run, after, "-o", plots)
    few, scratch, tuned = folder / "few.h5", folder / "scratch", folder / "finetuned"
    _type("index", _keep_few_labels(folder / "videos"), "-o", few)
    _type("finetune", run, few, "--run", scratch, *FINETUNING, "--random-weights", "--resume")
    _type("finetune", run, few, "--run", tuned, *FINETUNING, "--resume")
    _type("report", run, index)
    rows = [*_compare(run, index, before, after), _compare_finetuned(scratch, tuned)]
    say_text("\n" + _table(rows))
    results = json.dumps([asdict(row) for row in rows], indent=2) + "\n"
    write(folder / "results.json", results, "the results")
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    say(f"plots       {plots}")
    say(f"checkpoint  {run / 'checkpoints'}")
    say(f"results     {folder / 'results.json'}   ({minutes} min {seconds} s)")
    say(f"report      {run / 'report.html'}: open it in a browser; words: docs/glossary.md")


def _keep_few_labels(videos: Path) -> Path:
    """Write a list of the test videos and the first few training videos of each class."""
    with open(videos / "videos.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    label, split = head.index("label"), head.index("split")
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        if row[split] == "train":
            seen[row[label]] += 1
        if row[split] == "test" or seen[row[label]] <= _LABELS_PER_CLASS:
            kept.append(row)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *kept])
    write(videos / "few.csv", text.getvalue(), "the list of few labels")
    return videos / "few.csv"


def _compare_finetuned(scratch: Path, tuned: Path) -> Row:
    """Return the accuracies of two fine-tuning runs on the test videos."""
    shares = []
    for run in (scratch, tuned):
        (file,) = (run / "results").glob("finetune-*.json")
        (result,) = json.loads(file.read_text())["splits"]
        shares.append(result["metrics"]["top1"]["value"])
    chance = 1 / len(result["class_names"])
    name = f"top-1, fine-tuned with {_LABELS_PER_CLASS} labels"
    return Row(f"{name} a class", chance, *shares)


def _type(*words: str | Path) -> None:
    """Show a command line, and run it as the program that is running this one."""
    cli = click.get_current_context().find_root().command
    arguments = [str(word) for word in words]
    say()
    say("$ " + shlex.join(["fastdual", *arguments]))
    cli.main(arguments, prog_name="fastdual", standalone_mode=False)


def _compare(run: Path, index_file: Path, before: Path, after: Path) -> list[Row]:
    """Score the untrained and the pretrained network on the held-out videos."""
    from fastdual.evaluate.embed import EmbedOptions
    from fastdual.evaluate.held_out import embed_held_out
    from fastdual.evaluate.pairs import pairs_of_files
    from fastdual.evaluate.pretext import measure
    from fastdual.evaluate.retrieval import retrieval_report
    from fastdual.loaders.index import load_index
    from fastdual.weights.load import load_network

    index = load_index(index_file)
    retrieval, pretext = [], []
    for features, random_weights in ((before, True), (after, False)):
        (pair,) = pairs_of_files([features], [("train", "test")])
        retrieval.append(retrieval_report(pair))
        network = load_network(run, random_weights=random_weights)
        held_out = embed_held_out(network, index, split="test", options=EmbedOptions())
        pretext.append(measure(held_out))

    def row(measure: str, chance: float | None, values: Iterable[float | None]) -> Row:
        untrained, pretrained = values
        return Row(measure, chance, untrained, pretrained)

    return [
        row("R@1, same class", retrieval[0]["chance"], (r["recall"]["1"] for r in retrieval)),
        row("R@5, same class", None, (r["recall"]["5"] for r in retrieval)),
        row(
            "R@1, same video, other clip",
            1 / pretext[0].num_videos,
            (p.same_video_recall for p in pretext),
        ),
        row("rank accuracy", pretext[0].rank_chance, (p.rank_accuracy for p in pretext)),
        row(
            "rank accuracy, segments moved",
            pretext[0].rank_chance,
            (p.shuffled_rank_accuracy for p in pretext),
        ),
    ]


def _table(rows: list[Row]) -> str:
    lines = [f"{'held-out videos, %':<40}{'chance':>9}{'untrained':>11}{'pretrained':>12}"]
    for row in rows:
        chance, untrained, pretrained = map(_percent, (row.chance, row.untrained, row.pretrained))
        lines.append(f"{row.measure:<40}{chance:>9}{untrained:>11}{pretrained:>12}")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
