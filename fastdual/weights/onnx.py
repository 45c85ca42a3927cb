"""A backbone as an ONNX file, checked to give the same features under ONNX Runtime."""

import copy
import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdual.errors import FailureError, InputError
from fastdual.loaders.files import write
from fastdual.model.encoder import VideoEncoder
from fastdual.weights.export import HEADER_KEY, header

TOLERANCE = 1e-4
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Traced with two clips: a batch of one would be taken for a constant.
_TRACED_CLIPS, _CHECKED_CLIPS = 2, 3


def export_onnx(encoder: VideoEncoder, path: Path) -> float:
    """Write `clips` [N, 3, T, H, W] -> `features` [N, F], N free, after checking the features.

    The clips are those of `VideoEncoder.preprocess`; the file's metadata hold config and origin
    under "fastdual".

    Args:
        encoder: Put into evaluation mode.
        path: The file.

    Returns:
        The largest difference of a feature under ONNX Runtime, relative to the largest feature.

    Raises:
        InputError: A package of the extra `onnx` is missing.
        FailureError: The network cannot be traced, the features differ by more than 1e-4, or the
            file cannot be written.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f'--format onnx needs {", ".join(missing)}: run pip install ".[onnx]" in fastdual\'s '
            "checkout, or use --format safetensors"
        )
    encoder = encoder.eval()
    content = _trace(encoder, _random_clips(encoder, _TRACED_CLIPS))
    clips = _random_clips(encoder, _CHECKED_CLIPS)
    difference = _difference(encoder, content, clips)
    if not difference <= TOLERANCE:
        raise FailureError(_explain(difference, _rounding(encoder, clips)))
    write(path, content, "the export")
    return difference


def _explain(difference: float, rounding: float) -> str:
    # Two ways to compute in float32 may each be off by that much, in opposite directions.
    reason = (
        f"float32 itself is {rounding:.1e} off float64 with these weights, so no export can be "
        "held to it: train longer, or use --format safetensors"
        if 2 * rounding > TOLERANCE
        else "please report it"
    )
    return (
        f"--format onnx: under ONNX Runtime the features differ by {difference:.1e} of the "
        f"largest, more than {TOLERANCE:g}; nothing was written; {reason}"
    )


def _random_clips(encoder: VideoEncoder, count: int) -> Tensor:
    shape = (count, 3, *encoder.config.clip.clip_shape)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(count))
    return clips.to(encoder.mean.device)


def _trace(encoder: VideoEncoder, clips: Tensor) -> bytes:
    # The exporter warns of every operator of torchvision that is missing; none is used.
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                encoder,
                (clips,),
                dynamo=True,
                verbose=False,
                input_names=["clips"],
                output_names=["features"],
                dynamic_shapes={"clips": {0: torch.export.Dim("batch")}},
            )
    except Exception as error:  # a network of the user's own can make the tracer raise anything
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise FailureError(
            f"--format onnx: {encoder.config.model.backbone} cannot be traced ({reason}); use "
            "--format safetensors"
        ) from error
    finally:
        registry.setLevel(level)
    numbers = {name: getattr(encoder, name).flatten().tolist() for name in ("mean", "std")}
    program.model.metadata_props[HEADER_KEY] = json.dumps(header(encoder) | numbers)
    content: bytes = program.model_proto.SerializeToString()
    return content


def _difference(encoder: VideoEncoder, content: bytes, clips: Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"clips": clips.cpu().numpy()})
    with torch.inference_mode():
        return _relative(torch.from_numpy(theirs), encoder(clips).float().cpu())


def _rounding(encoder: VideoEncoder, clips: Tensor) -> float:
    """Return how far the features in float32 are from those in float64."""
    with torch.inference_mode():
        exact = copy.deepcopy(encoder).double()(clips.double())
        return _relative(encoder(clips).double(), exact)


def _relative(features: Tensor, expected: Tensor) -> float:
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return float((features - expected).abs().max()) / scale
