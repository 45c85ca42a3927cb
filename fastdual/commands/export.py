"""`fastdual export`: a backbone as a file for other programs."""

from pathlib import Path
from typing import Any

import click

from fastdual.errors import InputError

_PATH = click.Path(path_type=Path)
_SUFFIX = {"safetensors": ".safetensors", "torchvision": ".pth", "onnx": ".onnx"}


@click.command()
@click.argument("network", type=_PATH)
@click.option(
    "--format",
    "form",
    type=click.Choice(tuple(_SUFFIX)),
    default="safetensors",
    show_default=True,
    help="File format of the backbone.",
)
@click.option("-o", "--output", type=_PATH, help="File [default: backbone.* in RUN, or beside it].")
@click.option(
    "--backbone",
    help="NETWORK is a checkpoint of other code that holds this backbone; for a run or an export, "
    "your own that it was trained on (package.module:factory).",
)
def command(network: Path, form: str, output: Path | None, backbone: str | None) -> None:
    """Write the backbone of NETWORK: a run, a checkpoint, or an exported file.

    fastdual.load(FILE) gives it back in Python, with its preprocessing; embed, probe, knn and
    retrieve take the safetensors file in place of a run. With --backbone, NETWORK is a checkpoint
    of the paper's research code, CoCLR's family or torchvision. An ONNX file is checked against the
    backbone before it is written.

    \b
      fastdual export runs/k400 -o k400.safetensors
      fastdual export moco.pth.tar --backbone s3d -o s3d.safetensors
    """
    from fastdual.loaders.files import make_folder_of

    folder = network if network.is_dir() else network.parent
    target = output or folder / f"backbone{_SUFFIX[form]}"
    if form == "safetensors" and target.suffix != ".safetensors":
        raise InputError(
            f"-o {target}: fastdual.load knows an export by its suffix; name it "
            f"{target.with_suffix('.safetensors')}"
        )
    make_folder_of(target, "the export")  # before the work
    encoder = _read(network, backbone)
    _write(encoder, form, target)
    clip = encoder.config.clip
    click.echo(
        f"{target}: {encoder.config.model.backbone}, clips {clip.frames_per_clip}x"
        f"{clip.crop_size}x{clip.crop_size}, stride {clip.frame_stride}"
    )


def _read(network: Path, backbone: str | None) -> Any:
    from fastdual.weights.foreign import import_backbone
    from fastdual.weights.load import load

    ours = network.is_dir() or network.suffix == ".safetensors"
    if backbone is None or (ours and ":" in backbone):
        return load(network, backbone=backbone)
    encoder, report = import_backbone(network, backbone)
    click.echo(report.describe())
    return encoder


def _write(encoder: Any, form: str, target: Path) -> None:
    from fastdual.weights.export import export_safetensors, export_torchvision
    from fastdual.weights.onnx import export_onnx

    if form == "onnx":
        difference = export_onnx(encoder, target)
        click.echo(f"ONNX Runtime gives the same features to {difference:.1e} of the largest")
    elif form == "torchvision":
        export_torchvision(encoder, target)
    else:
        export_safetensors(encoder, target)
