"""`fastdual doctor`: what this machine has, whether it works, what will be used."""

import json

import click

from fastdual.console import say, say_text
from fastdual.errors import FailureError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Check this machine: versions, GPU, decoders, kernels, and what will be used and why.

    Each decoder decodes a small video and each fused loss is compared with its reference. A missing
    GPU is no fault; the exit code is 1 where something needed is missing or computes wrongly.
    """
    from fastdual.doctor.machine import diagnose

    diagnosis = diagnose()
    say_text(json.dumps(diagnosis.to_dict(), indent=2) if as_json else diagnosis.to_text())
    if diagnosis.failures:
        names = ", ".join(check.name for check in diagnosis.failures)
        raise FailureError(f"{len(diagnosis.failures)} checks failed: {names}")
    say("next        fastdual demo demo --train", err=True)
