"""The optimiser of a config, its state, and LARS, which torch does not have."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastdual.config.sections import OptimiserConfig


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled layer by layer (arXiv:1708.03888), for large batches.

    A weight of two axes or more moves by `trust * |w| / (|g| + decay * |w|)` of its decayed
    gradient. Biases and norms, which have one axis, are neither scaled nor decayed (as in
    arXiv:2002.05709). The learning rate multiplies the velocity, as in torch's SGD, and not what
    enters it: the same for a constant rate, and a new rate takes effect at once.

    Args:
        weights: What is trained.
        lr: Learning rate.
        momentum: Of SGD.
        weight_decay: Share of a weight that is added to its gradient.
        trust: The layer-wise rate.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(weights, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient, without waiting for the device."""
        assert closure is None, "the loop computes the loss once a step"
        for group in self.param_groups:
            flat = [w for w in group["params"] if w.grad is not None and w.ndim < 2]
            layers = [w for w in group["params"] if w.grad is not None and w.ndim >= 2]
            updates = [*_scaled_gradients(layers, group), *(w.grad for w in flat)]
            weights = layers + flat
            if not weights:
                continue
            buffers = [self._velocity(weight) for weight in weights]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(weights, buffers, alpha=-group["lr"])

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        velocity: Tensor = state["momentum_buffer"]
        return velocity


def _scaled_gradients(layers: list[Tensor], group: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return decayed gradients of weight tensors, each times its layer's rate."""
    if not layers:
        return ()
    gradients = [weight.grad for weight in layers if weight.grad is not None]
    updates = torch._foreach_add(gradients, layers, alpha=group["weight_decay"])
    weight_norms = torch.stack(torch._foreach_norm(layers))
    sizes = torch.stack(torch._foreach_norm(gradients)) + group["weight_decay"] * weight_norms
    # A layer at zero could never leave it; one without a gradient has no direction to scale.
    moving = (weight_norms > 0) & (sizes > 0)
    ratios = torch.where(moving, group["trust"] * weight_norms / sizes, 1.0)
    torch._foreach_mul_(updates, list(ratios.unbind()))
    return tuple(updates)


def create_optimiser(
    module: nn.Module, config: OptimiserConfig, *, fused: bool
) -> torch.optim.Optimizer:
    """Return the optimiser of a config over all weights of a module.

    Weight decay acts on every weight, norms and biases included, as in the paper; LARS spares
    those.

    Args:
        module: What is trained.
        config: Name and constants.
        fused: One kernel for all weights (CUDA; LARS has none).
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    kind: type[torch.optim.Optimizer]
    if config.name == "adamw":
        kind, options["betas"] = torch.optim.AdamW, (config.momentum, 0.999)
    else:
        kind = LARS if config.name == "lars" else torch.optim.SGD
        options["momentum"] = config.momentum
    if kind is not LARS:
        options["fused"] = fused
    return kind(weights, **options)


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state that may come from a run on another kind of device.

    What decides how a step is computed stays the optimiser's own: whether it is fused, and the
    memory format, which is that of each weight: CUDA's fused steps demand equal strides. Channels
    that pad a weight have states of 0 (fastdual.backbones.padding), which appear and go with them.
    """
    own = {k: v for k, v in optimiser.param_groups[0].items() if k == "fused"}
    groups = [{**group, **own} for group in state["param_groups"]]
    optimiser.load_state_dict({**state, "param_groups": groups})
    for weight, values in optimiser.state.items():
        for name, value in values.items():
            if name != "step" and isinstance(value, Tensor):
                sizes = zip(value.shape, weight.shape, strict=True)
                common = tuple(slice(min(pair)) for pair in sizes)
                values[name] = torch.zeros_like(weight, dtype=value.dtype)
                values[name][common] = value[common]
