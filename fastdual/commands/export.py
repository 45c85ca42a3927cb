"""`fastdual export`: a backbone as a file for other programs."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.next_command import show_next, videos_of
from fastdual.commands.shared.options import InputPath, OutputFile
from fastdual.console import say, say_text
from fastdual.errors import InputError

_PATH = InputPath()
_SUFFIX = {"safetensors": ".safetensors", "torchvision": ".pth", "onnx": ".onnx"}
_SUFFIX["checkpoint"] = ".pt"


@click.command()
@click.argument("network", type=_PATH)
@click.option(
    "--format",
    "form",
    type=click.Choice(tuple(_SUFFIX)),
    help="File format of the backbone.  [default: what the file's ending says; safetensors]",
)
@click.option(
    "-o",
    "--output",
    type=OutputFile("the export"),
    help="File [default: backbone.* in RUN, or beside it].",
)
@click.option(
    "--backbone",
    help="NETWORK is a checkpoint of other code that holds this backbone; for a run or an export, "
    "your own that it was trained on (package.module:factory).",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="CLIP.KEY=VALUE",
    help="With other code's checkpoint: the clips it was trained on, such as clip.frame_stride=2.",
)
@click.option("--prefix", help="Which network to take, where a checkpoint holds several.")
@click.option("--push", metavar="USER/MODEL", help="Put the safetensors file on the hub as well.")
def command(
    network: Path,
    form: str | None,
    output: Path | None,
    backbone: str | None,
    settings: tuple[str, ...],
    prefix: str | None,
    push: str | None,
) -> None:
    """Write the backbone of NETWORK: a run, a checkpoint, or an exported file.

    fastdual.load(FILE) gives it back in Python, with its preprocessing; embed, probe, knn and
    retrieve take the safetensors file in place of a run. With --backbone, NETWORK is a checkpoint
    of other code (the paper's, CoCLR's family, torchvision): entries are matched by their names
    and shapes under any prefix. torchvision's Kinetics networks come with their clips, mean and
    deviation; for others say them with --set clip.*. An ONNX file is checked against the backbone
    before it is written. -o x.pt keeps the heads of other code's network as well, so that pretext
    can measure it.

    \b
      fastdual export runs/k400 -o k400.safetensors
      fastdual export moco.pth.tar --backbone s3d -o s3d.safetensors --set clip.frame_stride=2
      fastdual export runs/k400 -o k400.safetensors --push user/k400
    """
    from fastdual.loaders.files import check_place

    form = form or _format_of(output)
    folder = network if network.is_dir() else network.parent
    target = output or folder / f"backbone{_SUFFIX[form]}"
    if push is not None and form != "safetensors":
        raise InputError(f"--push {push}: the hub gets the safetensors file; leave --format out")
    if form == "safetensors" and target.suffix != ".safetensors":
        raise InputError(
            f"-o {target}: fastdual.load knows an export by its suffix; name it "
            f"{target.with_suffix('.safetensors')}"
        )
    check_place(target, "the export")  # before the work
    if form == "checkpoint":
        _write_with_heads(network, target, backbone, settings, prefix)
        return
    encoder = _read(network, backbone, settings, prefix)
    weights = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    check_place(target, "the export", needed_bytes=weights)
    _write(encoder, form, target)
    say(_described(encoder, target))
    if push is not None:
        say(f"pushed: {_push(encoder, target, push, network)}")
    videos = videos_of(network)
    if form == "safetensors" and videos is not None:
        features = target.with_name(f"{target.stem}-features.h5")
        show_next("embed", target, videos, "-o", features, backbone=backbone)


def _described(encoder: Any, target: Path) -> str:
    clip = encoder.config.clip
    mean, std = (", ".join(f"{value:.3f}" for value in of) for of in (clip.mean, clip.std))
    return (
        f"{target}: {encoder.config.model.backbone}, clips {clip.frames_per_clip}x"
        f"{clip.crop_size}x{clip.crop_size}, stride {clip.frame_stride}, from frames of "
        f"{clip.resize_height}x{clip.resize_width}; mean {mean}, deviation {std}"
    )


def _push(encoder: Any, file: Path, repository: str, network: Path) -> str:
    """Upload an export with the results that its run holds."""
    from fastdual.evaluate.results import find_results, has_results
    from fastdual.report.table import markdown_table
    from fastdual.weights.hub import push

    results = ""
    if network.is_dir() and has_results(network):
        results = markdown_table([(network.name, result) for _, result in find_results([network])])
    return push(encoder, file, repository, results=results)


def _format_of(output: Path | None) -> str:
    """Return the format that a file's ending says, safetensors without one of ours."""
    suffix = "" if output is None else output.suffix
    return next((form for form, of in _SUFFIX.items() if of == suffix), "safetensors")


def _write_with_heads(
    network: Path, target: Path, backbone: str | None, settings: tuple[str, ...], prefix: str | None
) -> None:
    from fastdual.run.checkpoint import save_checkpoint
    from fastdual.weights.initial import import_with_heads

    if backbone is None:
        raise InputError(
            f"-o {target}: a run has checkpoints already; for other code's network add --backbone"
        )
    state, taken = import_with_heads(network, backbone, settings=settings, prefix=prefix)
    say_text(taken.describe())
    save_checkpoint(target, state)
    say(f"{target}: {backbone} with its heads; pretext, embed and fastdual pretrain --init take it")


def _read(
    network: Path, backbone: str | None, settings: tuple[str, ...], prefix: str | None
) -> Any:
    from fastdual.weights.foreign import import_backbone
    from fastdual.weights.load import load

    ours = network.is_dir() or network.suffix == ".safetensors"
    if backbone is None or (ours and ":" in backbone):
        if settings or prefix is not None:
            raise InputError("--set and --prefix are for checkpoints of other code: add --backbone")
        return load(network, backbone=backbone)
    encoder, report = import_backbone(network, backbone, settings=settings, prefix=prefix)
    say_text(report.describe())
    if not report.known_clips and not settings:
        say(
            "warning: the checkpoint does not say on which clips it was trained; these are the "
            "paper's, with ImageNet's mean and deviation; give others with --set clip.KEY=VALUE",
            err=True,
        )
    return encoder


def _write(encoder: Any, form: str, target: Path) -> None:
    from fastdual.weights.export import export_safetensors, export_torchvision
    from fastdual.weights.onnx import export_onnx

    if form == "onnx":
        difference = export_onnx(encoder, target)
        say(f"ONNX Runtime gives the same features to {difference:.1e} of the largest")
    elif form == "torchvision":
        export_torchvision(encoder, target)
    else:
        export_safetensors(encoder, target)
