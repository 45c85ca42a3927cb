"""What each stage of bench.gpu_check runs, in which order, and for how long at most."""

from dataclasses import dataclass

# Where the time ends, the most valuable comes first. Options that come later win, so a rehearsal
# is the same command with smaller numbers.
STAGE_SECONDS = 450  # of all jobs of a stage together; with their start and end below 8 minutes


@dataclass(frozen=True)
class Job:
    """One command of Python. `{out}` stands for the folder of results, `{data}` for the videos.

    Attributes:
        name: What it does.
        command: Module and options.
        rehearsal: Options that make it tiny, for a machine without a GPU.
        seconds: It is stopped after this time.
        needs: What it cannot do without: packages, or "data", the videos of the bundle.
    """

    name: str
    command: tuple[str, ...]
    rehearsal: tuple[str, ...]
    seconds: int
    needs: tuple[str, ...] = ()


def _losses(name: str, rows: tuple[str, ...], seconds: int) -> Job:
    size = ("--rows", *rows, "--dims", "128", "--out", "{out}/losses_cuda", "--continue")
    tiny = ("--rows", *(f"{64 * (n + 1)}" for n, _ in enumerate(rows)), "--losses", "nt_xent")
    return Job(name, ("bench.losses", *size), tiny, seconds)


def _steps(name: str, contestants: tuple[str, ...], seconds: int, *, batch: int = 64) -> Job:
    size = ("--backbones", "r2plus1d", "--batch", str(batch), "--repeats", "10")
    out = ("--contestants", *contestants, "--out", "{out}/train_cuda", "--continue")
    tiny = ("--backbones", "tiny", "--batch", str(2 + (batch < 64)), "--repeats", "1")
    tiny += ("--frames", "8", "--crop", "32", "--contestants")
    # On a CPU these modes are compiled for nothing.
    tiny += tuple(name for name in contestants if "graphs" not in name and "max" not in name)
    return Job(name, ("bench.train", *size, *out), tiny, seconds)


KERNELS = (
    Job(
        "tests",
        ("bench.parts.gpu_check.suite", "--out", "{out}/tests_cuda"),
        ("--marker", "not gpu", "--paths", "tests/kernels/test_checks.py", "--processes", "1"),
        180,
        ("pytest", "pytest_timeout", "hypothesis"),
    ),
    _losses("losses of 16,384 rows", ("16384",), 120),
    Job(
        "tiles",
        ("bench.parts.gpu_check.tiles", "--out", "{out}/tiles_cuda"),
        ("--rows", "16", "--dims", "16", "--limit", "2"),
        120,
        ("triton",),
    ),
    _losses("losses of fewer rows", ("1024", "128"), 120),
)
STEP = (
    _steps("step", ("ours", "paper", "eager"), 240),
    _steps("step, channels", ("ours", "ours, not padded"), 150),
    _steps("step, 32 clips", ("ours", "ours, CUDA graphs", "ours, not compiled"), 150, batch=8),
    _steps("step, precision and losses", ("ours", "ours, fp32", "ours, eager losses"), 150),
    _steps("step, not compiled", ("ours", "ours, not compiled", "ours, recomputed"), 120),
    _steps("step, other channels", ("ours", "ours, padded to 16"), 150),
    _steps("step, CUDA graphs", ("ours", "ours, CUDA graphs"), 150),
    _steps("step, max-autotune", ("ours", "ours, max-autotune"), 300),
)
VIDEO = ("av", "nvidia.dali", "data")
_TINY_LOADER = ("--device", "cpu", "--seconds", "0.3", "--batch-size", "2")
_MJPEG = ("--packs", "mjpeg_128x176", "--decode", "dali-cpu")  # which DALI decodes on a CPU too
DECODE = (
    Job(
        "canary",
        ("bench.parts.gpu_check.canary", "--data", "{data}", "--out", "{out}/canary_cuda"),
        ("--device", "cpu", "--videos", "3", *_MJPEG),
        150,
        VIDEO,
    ),
    Job(
        "lanes, threads and sizes",
        ("bench.parts.gpu_check.lanes", "--data", "{data}", "--out", "{out}/lanes_cuda"),
        (*_TINY_LOADER, *_MJPEG, "--lanes", "2", "--threads", "1"),
        300,
        VIDEO,
    ),
)
CONTENTION = (
    Job(
        "loader beside convolutions",
        ("bench.parts.gpu_check.contention", "--data", "{data}", "--out", "{out}/contention_cuda"),
        (*_TINY_LOADER, "--tiny", "--clips", "2", "--ways", "PyAV, pack, augmented on the CPU"),
        240,
        ("av", "data"),
    ),
    Job(
        "training from a pack",
        ("bench.train", "--backbones", "r2plus1d", "--contestants", "ours", "--repeats", "5",
         "--data", "{data}/h264_128x176.h5", "--out", "{out}/pack_train_cuda", "--continue"),
        ("--backbones", "tiny", "--device", "cpu", "--batch", "2", "--frames", "8", "--crop", "32",
         "--repeats", "1"),
        200,
        VIDEO,
    ),
)  # fmt: skip
LEARN = (
    Job(
        "pretraining",
        ("bench.parts.gpu_check.learn", "--data", "{data}/learn.h5", "--out", "{out}/learn_cuda"),
        ("--epochs", "2", "--set", "data.batch_size=4", "run.log_every_steps=1"),
        420,
        VIDEO,
    ),
)
STAGES = {
    "kernels": KERNELS,
    "step": STEP,
    "decode": DECODE,
    "contention": CONTENTION,
    "learn": LEARN,
}
