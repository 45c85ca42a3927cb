"""What Kinetics-400, 200 epochs, asks of 1, 8 and 64 GPUs: decoding, bytes, network, memory, hours.

    python -m bench.scale [--utilisation 0.35] [--write docs/scale.md] ...

Counted from the network and the method: arithmetic, weights, messages. Taken from bench/results
where they were measured. All else is an assumption: an option, named as such in what is printed.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.parts.markdown import between_marks, markdown_table
from bench.parts.results import RESULTS
from bench.parts.train.contestants import Size, training_gflop
from fastdual.config.sections import PretrainConfig
from fastdual.model.dual import DualModel, create_model

MARKS = "<!-- made by python -m bench.scale -->", "<!-- end of what bench.scale made -->"
WORLDS = (1, 8, 64)
VIEWS, CLIPS_DECODED = 4, 2
PAPER_BATCH = 64
PACK = "ours, pyav, pack 128 px h264"


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What nobody measured here; each has an option of its name."""

    videos: int = 240_000
    """videos of Kinetics-400 that can still be had"""
    epochs: int = 200
    """passes over them, as in the paper"""
    batch_per_gpu: int = 64
    """videos a GPU takes in a step"""
    peak_tflops: float = 989.0
    """dense bf16 of an H200, data sheet"""
    utilisation: float = 0.35
    """share of the peak that training reaches: the project's aim, not a measurement"""
    decoded_frames_per_second: float = 20_000.0
    """frames of 128 pixels a second, all decoders of a GPU; no figure for so small ones is known"""
    frames_decoded_per_frame_used: float = 1.5
    """a short GOP makes the decoder begin before the clip"""
    video_seconds: float = 10.0
    """length of a video"""
    pack_kilobytes_per_second: float = 27.0
    """of video in a pack of 128 pixels"""
    gigabytes_per_second_inside: float = 350.0
    """what a ring reaches a GPU and direction within a machine of 8 (NVLink)"""
    gigabytes_per_second_between: float = 40.0
    """the same between machines (400 Gbit/s a GPU)"""
    collective_microseconds: float = 30.0
    """cost of a small message among all, whatever its size"""


@dataclass(frozen=True)
class Network:
    """What is counted from the model: a training step's arithmetic and what it sends."""

    gflop_per_clip: float
    weights: int
    norm_channels: int
    norm_layers: int
    embedding_floats: int
    activation_bytes_per_clip: int
    frames_per_video: int

    @classmethod
    def of(cls, config: PretrainConfig) -> "Network":
        clip = config.clip
        with torch.device("meta"):
            model = create_model(config)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
        size = Size(batch=1, frames=clip.frames_per_clip, crop=clip.crop_size)
        return cls(
            gflop_per_clip=training_gflop(config.model.backbone, size),
            weights=sum(weight.numel() for weight in model.parameters()),
            norm_channels=sum(norm.num_features for norm in norms),
            norm_layers=len(norms),
            # Two views of a video meet the others: clip embeddings and segment means.
            embedding_floats=2 * (config.model.clip_dim + config.model.segment_dim),
            activation_bytes_per_clip=_activation_bytes(model, size),
            frames_per_video=CLIPS_DECODED * clip.frames_per_clip,
        )


def _activation_bytes(model: DualModel, size: Size) -> int:
    """bf16 outputs of all layers of the backbone for one clip: what an eager backward keeps."""
    counted = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        # An in-place ReLU keeps nothing that batch norm had not.
        counted += 0 if isinstance(layer, nn.ReLU) else 2 * output.numel()

    for layer in model.backbone.modules():
        if not list(layer.children()):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model.backbone.eval()(torch.empty(1, 3, size.frames, size.crop, size.crop, device="meta"))
    return counted


def measured_clips_per_second(backbone: str) -> float | None:
    """Ours on a GPU, if bench.train has been there."""
    path = RESULTS / "train_cuda.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    rates = [
        float(row["clips_per_second"])
        for row in rows
        if row["backbone"] == backbone and row["contestant"] == "ours" and row["status"] == "ok"
    ]
    return rates[0] if rates else None


def measured_cpu_milliseconds() -> float:
    """CPU time that our loader took for a video from a small pack, where a CPU decodes."""
    rows = json.loads((RESULTS / "loader_mlr511_cpu.json").read_text())
    return next(float(row["cpu_ms_per_video"]) for row in rows if row["contestant"] == PACK)


def plan(network: Network, given: Assumptions, world: int, rate: float | None) -> dict[str, Any]:
    """Everything about a run on `world` GPUs, in plain units."""
    batch = given.batch_per_gpu * world
    steps = given.videos // batch * given.epochs
    speed = rate or given.utilisation * given.peak_tflops * 1e3 / network.gflop_per_clip
    compute = VIEWS * given.batch_per_gpu / speed
    frames = network.frames_per_video * given.batch_per_gpu * given.frames_decoded_per_frame_used
    decode = frames / given.decoded_frames_per_second
    inside = world <= 8
    bandwidth = 1e9 * (
        given.gigabytes_per_second_inside if inside else given.gigabytes_per_second_between
    )
    ring = 2 * (world - 1) / world * 4 * network.weights
    gathered = (world - 1) * given.batch_per_gpu * network.embedding_floats * 4
    norm = (world - 1) * 3 * 4 * network.norm_channels + 4 * 4 * network.norm_channels
    # A gather and a sum a batch norm; the loss gathers and reduces; gradients; the stop word.
    messages = 2 * network.norm_layers + 5 if world > 1 else 0
    if world == 1:
        ring = gathered = norm = 0
    waiting = messages * given.collective_microseconds * 1e-6
    sending = (ring + 2 * gathered + norm) / bandwidth + waiting
    step = max(compute + sending, decode)
    return {
        "batch": batch,
        "steps": steps,
        "compute_ms": 1e3 * compute,
        "network_ms": 1e3 * sending,
        "of_which_waiting_ms": 1e3 * waiting,
        "decode_ms": 1e3 * decode,
        "step_ms": 1e3 * step,
        "hours": steps * step / 3600,
        "efficiency": compute / step,
        "limit": "decoding" if decode > compute + sending else "arithmetic",
        "frames_per_second": world * frames / step,
        "megabytes_read_per_second": world
        * given.batch_per_gpu
        / step
        * given.video_seconds
        * given.pack_kilobytes_per_second
        / 1e3,
        "ring_megabytes": ring / 1e6,
        "gather_megabytes": 2 * gathered / 1e6,
        "norm_megabytes": norm / 1e6,
        "state_gigabytes": 3 * 4 * network.weights / 1e9,
        "activation_gigabytes": VIEWS
        * given.batch_per_gpu
        * network.activation_bytes_per_clip
        / 1e9,
        "cpu_cores": world * given.batch_per_gpu / step * measured_cpu_milliseconds() / 1e3,
    }


ROWS: tuple[tuple[str, str, int], ...] = (
    ("batch, videos", "batch", 0),
    ("steps", "steps", 0),
    ("arithmetic of a step, ms", "compute_ms", 1),
    ("network of a step, ms", "network_ms", 1),
    ("... of which waiting for each other", "of_which_waiting_ms", 1),
    ("decoding of a step, ms", "decode_ms", 1),
    ("step, ms", "step_ms", 1),
    ("hours for all epochs", "hours", 1),
    ("share of one GPU's speed, each", "efficiency", 2),
    ("frames decoded a second, all", "frames_per_second", 0),
    ("MB read a second, all", "megabytes_read_per_second", 0),
    ("gradients a GPU sends (ring), MB a step", "ring_megabytes", 0),
    ("embeddings a GPU receives and sends, MB a step", "gather_megabytes", 1),
    ("batch norm a GPU receives and sends, MB a step", "norm_megabytes", 1),
    ("weights, gradients, momentum, GB", "state_gigabytes", 2),
    ("activations without compilation, GB at most", "activation_gigabytes", 1),
    ("CPU cores, were CPUs to decode and augment", "cpu_cores", 0),
)


def report(given: Assumptions) -> str:
    """The table and what it rests on, as Markdown."""
    config = PretrainConfig()
    network, rate = Network.of(config), measured_clips_per_second(config.model.backbone)
    plans = [plan(network, given, world, rate) for world in WORLDS]
    worlds = [f"{world} GPU" for world in WORLDS]
    body = [[label, *_cells(plans, key, digits)] for label, key, digits in ROWS]
    body.append(["limit", *(p["limit"] for p in plans)])
    shared = [
        plan(network, replace(given, batch_per_gpu=PAPER_BATCH // world), world, rate)
        for world in WORLDS
    ]
    shown = ("compute_ms", "network_ms", "decode_ms", "hours", "efficiency")
    shared_body = [
        [label, *_cells(shared, key, digits)] for label, key, digits in ROWS if key in shown
    ]
    docs = assumption_docs()
    assumed = [
        [
            docs[field.name],
            f"{getattr(given, field.name):,g}",
            f"`--{field.name.replace('_', '-')}`",
        ]
        for field in fields(given)
    ]
    speed = "measured, results/train_cuda.json" if rate else "assumed, see below"
    parts = [
        markdown_table([config.model.backbone, *worlds], body),
        f"With the paper's batch of {PAPER_BATCH} videos shared out over all GPUs:",
        markdown_table(["", *worlds], shared_body),
        f"Counted: {network.gflop_per_clip:.1f} GFLOP a clip and step, {network.weights:,} "
        f"weights, {network.norm_layers} batch norms of {network.norm_channels:,} channels, "
        f"{network.embedding_floats} numbers a video gathered by the losses. "
        f"Measured: {measured_cpu_milliseconds():.1f} CPU ms a video "
        "(results/loader_mlr511_cpu.json, pack of 128 pixels; videos of that set, not of "
        "Kinetics). "
        f"Speed of a GPU: {speed}.",
        markdown_table(["assumed, not measured", "value", "option"], assumed),
    ]
    return "\n\n".join(parts)


def _cells(plans: Sequence[dict[str, Any]], key: str, digits: int) -> list[str]:
    return [f"{p[key]:,.{digits}f}" for p in plans]


def assumption_docs() -> dict[str, str]:
    """The text below each field of Assumptions."""
    source = Path(__file__).read_text()
    return dict(re.findall(r"^    (\w+): (?:int|float) = .*\n    \"\"\"(.*)\"\"\"$", source, re.M))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    docs = assumption_docs()
    for field in fields(Assumptions):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            help=docs[field.name].replace("%", "%%"),
        )
    parser.add_argument("--write", type=Path, help="page whose table is to be made anew")
    given = vars(parser.parse_args(arguments))
    page = given.pop("write")
    table = report(Assumptions(**given))
    print(table)
    if page is not None:
        page.write_text(between_marks(page.read_text(), MARKS, table))


if __name__ == "__main__":
    main()
