"""What a machine with a GPU but without network needs for bench.gpu_check, in parts to carry.

    python -m bench.gpu_bundle --parts FOLDER [--python 3.12] [--data VIDEOS]   at home
    python -m bench.gpu_bundle --parts FOLDER --unpack                          on the machine

The bundle holds PyAV, DALI without what is not loaded, small packs of videos, and the commit of
this checkout. --unpack checks the parts and writes build/gpu-bundle, where gpu_check looks.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from bench.parts.gpu_bundle.archive import read_parts, write_parts
from bench.parts.gpu_bundle.packages import write_packages
from bench.parts.results import describe_machine
from fastdual.errors import FailureError, InputError


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--unpack", action="store_true", help="into --out")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-bundle"))
    parser.add_argument("--part-mib", type=int, default=56, help="largest part  [default: 56]")
    parser.add_argument("--python", default="3.12", help="of the machine  [default: 3.12]")
    parser.add_argument("--cuda", choices=("130", "120"), default="130", help="of DALI's build")
    parser.add_argument("--without-packages", action="store_true", help="the videos alone")
    parser.add_argument("--data", type=Path, help="folder, CSV, index or pack  [default: written]")
    parser.add_argument("--videos", type=int, default=64, help="of --data at most  [default: 64]")
    parser.add_argument("--scenes", type=int, default=12, help="of the demo set  [default: 12]")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Make the parts, or unpack them."""
    options = parse(words)
    try:
        if options.unpack:
            read_parts(options.parts, options.out)
            print(f"unpacked into {options.out}")
            return 0
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), options)
            for part in write_parts(Path(folder), options.parts, part_mib=options.part_mib):
                print(f"{part}  {part.stat().st_size / 2**20:.1f} MiB")
    except (InputError, FailureError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def fill(folder: Path, options: argparse.Namespace) -> None:
    """Write what the bundle holds: site/, data/ and the commit."""
    from bench.parts.gpu_bundle.videos import write_data  # needs PyAV, which --unpack may lack

    (folder / "commit").write_text(describe_machine(torch.device("cpu"))["commit"] + "\n")
    if not options.without_packages:
        print("downloading packages ...", file=sys.stderr, flush=True)
        write_packages(folder / "site", python=options.python, cuda=options.cuda)
    print("writing videos ...", file=sys.stderr, flush=True)
    write_data(folder / "data", options.data, num_videos=options.videos, scenes=options.scenes)


if __name__ == "__main__":
    sys.exit(main())
