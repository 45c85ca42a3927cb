"""Activation checkpointing: the backward pass recomputes the activations of a stage.

Memory then holds the inputs of the stages and the activations of one of them; the price is a second
forward pass. Batch norm normalises by the same batch both times and updates its statistics once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastdual.errors import InputError


def recompute_activations(backbone: nn.Module) -> None:
    """Make every stage of a backbone (its children with convolutions) recompute activations.

    Works in place; the names of weights and the output stay as they are.

    Raises:
        InputError: There are fewer than two stages, so that no memory would be saved.
    """
    children = list(backbone.children())
    # S3D also registers the members of its blocks as children: only those in no other child count.
    inner = {part for child in children for part in child.modules() if part is not child}
    stages = [
        child
        for child in children
        if child not in inner and sum(isinstance(layer, nn.Conv3d) for layer in child.modules()) > 1
    ]
    if len(stages) < 2:
        raise InputError(
            "run.recompute_activations: this backbone has no stages of several convolutions; use "
            "optimiser.accumulate_chunks for less memory"
        )
    for stage in stages:
        forward = stage.forward
        stage.forward = partial(_checkpointed, stage, forward)


def _checkpointed(stage: nn.Module, forward: Any, x: Tensor) -> Tensor:
    if not stage.training:
        kept: Tensor = forward(x)
        return kept
    result: Tensor = checkpoint(
        forward,
        x,
        use_reentrant=False,
        preserve_rng_state=False,  # no backbone draws random numbers
        context_fn=partial(_contexts, stage),
    )
    return result


def _contexts(
    stage: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first and of the second forward pass."""
    return nullcontext(), _without_statistics(stage)


@contextmanager
def _without_statistics(stage: nn.Module) -> Iterator[None]:
    """Normalise by the batch, as in training, without a change of the running statistics."""
    norms = [m for m in stage.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
