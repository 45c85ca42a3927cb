"""Networks on the Hugging Face hub: hf://user/model is fetched, and an export is pushed there.

A repository holds `model.safetensors`, the file of `fastdual export`, which has its config inside;
`config.json`, the same config for people; and a model card.
"""

import json
import re
from pathlib import Path
from typing import Any

from fastdual.errors import FailureError, InputError
from fastdual.model.encoder import VideoEncoder

FILE_NAME = "model.safetensors"
# pathlib makes one slash of two.
_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def is_address(path: Path | str) -> bool:
    """Return whether a path is an address on the hub."""
    return str(path).startswith("hf:/")


def fetch(address: Path | str) -> Path:
    """Return the file of hf://user/model or hf://user/model@revision, from the cache or the hub.

    Raises:
        InputError: Not such an address, no such model, or huggingface_hub is missing.
        FailureError: The hub cannot be reached.
    """
    repository, revision = _parse(address)
    hub = _hub()
    try:
        found = hub.hf_hub_download(repository, FILE_NAME, revision=revision)
    except hub.errors.LocalEntryNotFoundError as error:
        raise FailureError(
            f"hf://{repository}: the hub cannot be reached: {_line(error)}"
        ) from error
    except hub.errors.EntryNotFoundError as error:
        raise InputError(
            f"hf://{repository}: holds no {FILE_NAME}; fastdual export --push writes one"
        ) from error
    except hub.errors.RevisionNotFoundError as error:
        raise InputError(f"hf://{repository}: has no revision {revision!r}") from error
    except hub.errors.RepositoryNotFoundError as error:
        raise InputError(
            f"hf://{repository}: there is no such model, or it is private: run hf auth login"
        ) from error
    except (hub.errors.HfHubHTTPError, OSError) as error:
        raise FailureError(f"hf://{repository}: cannot be fetched: {_line(error)}") from error
    return Path(found)


def push(encoder: VideoEncoder, file: Path, repository: str, *, results: str) -> str:
    """Upload an exported file, its config and a model card; return the address of the model.

    Args:
        encoder: What was exported.
        file: The safetensors file.
        repository: As user/model; it is made if there is none.
        results: Markdown tables of what was measured, "" for none.

    Raises:
        InputError: No such name, or huggingface_hub is missing.
        FailureError: The hub refuses, or cannot be reached.
    """
    name, _ = _parse(f"hf://{repository.removeprefix('hf://')}")
    hub = _hub()
    config = json.dumps(encoder.config.to_dict(), indent=2) + "\n"
    contents: dict[str, Any] = {
        FILE_NAME: str(file),
        "config.json": config.encode(),
        "README.md": model_card(encoder, name, results).encode(),
    }
    operations = [hub.CommitOperationAdd(path, content) for path, content in contents.items()]
    message = f"fastdual export {encoder.weights_sha256[:12]}"
    try:
        hub.create_repo(name, exist_ok=True)
        hub.create_commit(name, operations, commit_message=message)
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise FailureError(
            f"hf://{name}: could not be pushed: {_line(error)} (hf auth login, or HF_TOKEN)"
        ) from error
    return f"hf://{name}"


def model_card(encoder: VideoEncoder, name: str, results: str) -> str:
    """Return the model card: what the network is, how it is used, and what was measured."""
    config, clip = encoder.config, encoder.config.clip
    measured = results or "Nothing was measured before it was pushed."
    return f"""---
library_name: fastdual
pipeline_tag: feature-extraction
tags: [video, self-supervised]
---

# {name}

A video backbone, `{config.model.backbone}`, pretrained without labels by fastdual
(arXiv:2107.01194, objective `{config.loss.objective}`). It maps clips of {clip.frames_per_clip}
frames of {clip.crop_size}x{clip.crop_size}, {clip.frame_stride} frames apart, to
{encoder.feature_dim} features.

```python
import fastdual

encoder = fastdual.load("hf://{name}")
features = encoder.embed("video.mp4")
```

## Results

{measured}

SHA-256 of the weights: `{encoder.weights_sha256}`
"""


def _parse(address: Path | str) -> tuple[str, str | None]:
    match = _ADDRESS.fullmatch(str(address).rstrip("/"))
    if match is None:
        raise InputError(f"{address}: an address on the hub is hf://user/model or ...@revision")
    return match[1], match[2]


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise InputError(
            'hf:// needs huggingface_hub, which is not installed: run pip install ".[hub]" in '
            "fastdual's checkout"
        ) from error
    return huggingface_hub


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
