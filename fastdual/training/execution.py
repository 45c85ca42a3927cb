"""Where and how a run computes: device, precision, compilation, and the reason for each choice."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from fastdual.config.sections import RunConfig
from fastdual.distributed.world import World
from fastdual.errors import FailureError, InputError
from fastdual.training.compiler import require_compiler

# Values of run.compile, and what torch calls them.
_COMPILE_MODES = {
    "on": "default",
    "max-autotune": "max-autotune-no-cudagraphs",
    "cuda-graphs": "reduce-overhead",
}


@dataclass(frozen=True)
class Execution:
    """What the `run` section of a config means on this machine.

    Attributes:
        device: Where the network is.
        bf16: Autocast to bfloat16; otherwise float32 throughout.
        compile_mode: Of torch.compile on the model's forward; None: not compiled.
    """

    device: torch.device
    bf16: bool
    compile_mode: str | None

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def describe(self) -> str:
        """Return device, precision and compilation in one line."""
        where = f"cpu ({torch.get_num_threads()} threads; OMP_NUM_THREADS sets how many)"
        if self.is_cuda:
            where = f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        precision = "bf16 autocast, channels last" if self.bf16 else "fp32"
        compiled = "not compiled" if self.compile_mode is None else "torch.compile"
        mode = "" if self.compile_mode in (None, "default") else f" ({self.compile_mode})"
        return f"{where}, {precision}, {compiled}{mode}"

    def compile(self, network: nn.Module) -> nn.Module:
        """Return the network to call: compiled, or itself."""
        if self.compile_mode is None:
            return network
        # Given a module, it returns one; its annotation does not say so.
        return cast(nn.Module, torch.compile(network, mode=self.compile_mode))

    def begin_step(self) -> None:
        """Tell torch that nothing reads the outputs of the last step's graphs any more."""
        if self.compile_mode == _COMPILE_MODES["cuda-graphs"]:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


@contextmanager
def explained_memory(device: torch.device, remedy: str) -> Iterator[None]:
    """Turn memory that ran out in the block into a FailureError with a remedy."""
    try:
        yield
    except RuntimeError as error:
        # A CPU's allocator raises a plain RuntimeError.
        reason = re.search(r"[Tt]ried to allocate [\d.]+ \w+", str(error))
        if reason is None:
            raise
        raise FailureError(f"{device}: out of memory ({reason[0].lower()}); {remedy}") from error


def choose_execution(config: RunConfig, world: World | None = None) -> Execution:
    """Turn `auto` into choices, for one process of a world.

    Raises:
        InputError: A device that is not there, or a precision that it cannot train in.
    """
    device = choose_device(config.device, world or World())
    on_cuda = device.type == "cuda"
    if config.precision == "bf16" and not on_cuda:
        raise InputError(
            "run.precision = 'bf16': a CPU trains in fp32 only, as its bf16 Conv3d gradients were "
            "seen to be wrong; set run.precision=fp32, or run.device=cuda"
        )
    bf16 = config.precision == "bf16" or (config.precision == "auto" and on_cuda)
    if config.compile in _COMPILE_MODES and config.recompute_activations == "on":
        raise InputError(
            f"run.compile = {config.compile!r}: a compiled network decides itself what it keeps; "
            "leave run.recompute_activations out, and take optimiser.accumulate_chunks for less "
            "memory"
        )
    wanted = on_cuda and config.recompute_activations == "off"
    choice = ("on" if wanted else "off") if config.compile == "auto" else config.compile
    mode = _COMPILE_MODES.get(choice)
    if mode is not None:
        setting = f"run.compile = {config.compile!r}"
        require_compiler(device, setting=setting, remedy="set run.compile=off")
    return Execution(device, bf16=bf16, compile_mode=mode)


def choose_device(name: str, world: World | None = None) -> torch.device:
    """Return the device of a name; `auto` is a CUDA device, or the CPU where there is none.

    Each of several processes on a machine takes the CUDA device of its local rank. It becomes the
    process's current one, for whatever is given none: events, streams, collectives, libraries.

    Raises:
        InputError: The machine has no such device.
    """
    world, count = world or World(), torch.cuda.device_count()
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
    if world.size > 1 and device.index is not None:
        raise InputError(
            f"run.device = {name!r}: each of {world.size} processes takes a GPU of its own; use "
            "--device cuda, and CUDA_VISIBLE_DEVICES to choose among them"
        )
    # srun can be told to show each process its own GPU only.
    alone = world.launcher == "slurm" and count == 1
    number = device.index or (0 if alone else world.local_rank)
    if number >= count:
        wanted = "" if world.size == 1 else f" for process {number} of this machine"
        raise InputError(
            f"run.device = {name!r}{wanted}: this machine has {count} CUDA devices; use --device "
            "cpu, or ask `fastdual doctor` what it sees"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def check_gpus(name: str, processes: int) -> None:
    """Raise an InputError unless this machine has a device of that name for every process."""
    if name == "cpu":
        return
    count = torch.cuda.device_count()
    if processes > count:
        raise InputError(
            f"--gpus {processes}: this machine has {count} GPUs; ask for {count} or fewer, or add "
            f"--device cpu for {processes} processes on the CPU"
            if count
            else f"--gpus {processes}: this machine has no GPU; add --device cpu for {processes} "
            "processes on the CPU"
        )
