"""Where and how a run computes: device, precision, compilation, and the reason for each choice."""

from dataclasses import dataclass

import torch

from fastdual.config import RunConfig
from fastdual.loaders.errors import InputError


@dataclass(frozen=True)
class Execution:
    """What the `run` section of a config comes to on this machine.

    Attributes:
        device: where the network is.
        bf16: autocast to bfloat16; otherwise float32 throughout.
        compiled: torch.compile on the model's forward.
    """

    device: torch.device
    bf16: bool
    compiled: bool

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def describe(self) -> str:
        """Device, precision, compilation, in one line."""
        where = f"cpu ({torch.get_num_threads()} threads; OMP_NUM_THREADS sets how many)"
        if self.is_cuda:
            where = f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        precision = "bf16 autocast, channels last" if self.bf16 else "fp32"
        return f"{where}, {precision}, {'torch.compile' if self.compiled else 'not compiled'}"


def choose_execution(config: RunConfig) -> Execution:
    """Turn `auto` into choices.

    Raises:
        InputError: a device that is not there, or a precision that it cannot train in.
    """
    device = choose_device(config.device)
    on_cuda = device.type == "cuda"
    if config.precision == "bf16" and not on_cuda:
        raise InputError(
            "run.precision = 'bf16': a CPU trains in fp32 only, as its bf16 Conv3d gradients were "
            "seen to be wrong; set run.precision=fp32, or run.device=cuda"
        )
    bf16 = config.precision == "bf16" or (config.precision == "auto" and on_cuda)
    compiled = config.compile == "on" or (config.compile == "auto" and on_cuda)
    return Execution(device, bf16=bf16, compiled=compiled)


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is the first CUDA device, or the CPU where there is none."""
    count = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"run.device = {name!r}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    number = device.index or 0
    if number >= count:
        raise InputError(
            f"run.device = {name!r}: this machine has {count} CUDA devices; use --device cpu, or "
            "ask `fastdual doctor` what it sees"
        )
    return torch.device("cuda", number)
