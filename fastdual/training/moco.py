"""MoCo (arXiv:1911.05722) for the dual representation: a momentum encoder and queues of its keys.

The momentum encoder embeds view 1, the keys of the two contrasts. The trained network embeds views
0, 2 and 3: the ranking of segments compares clips of one video, needs no queue, and would otherwise
lose its gradient on views 2 and 3.

Batch norm normalises queries over views 0, 2 and 3 together and keys over view 1 alone, both over
the whole batch. With several processes both must be synchronised. That replaces the shuffling of
keys between processes: statistics can then leak only what the global batch has in common.

Shape letters: B videos of this process, V views, S segments, D embedding size, K queue length.
"""

import copy

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fastdual.config import PretrainConfig
from fastdual.functional import contrastive_loss_with_metrics, shuffle_rank_loss_with_metrics
from fastdual.kernels.dispatch import Backend
from fastdual.kernels.objective import Part
from fastdual.kernels.results import ContrastiveResult
from fastdual.model.dual import normalise
from fastdual.training.collapse import embedding_spread
from fastdual.training.loop import StepOutput


class KeyQueue(nn.Module):
    """The newest K keys in a ring; the position is a tensor, so that nothing waits for the device.

    Args:
        keys: [K, D] its first content.
    """

    keys: Tensor
    position: Tensor

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", keys.detach().clone())
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by [B, D] new ones; of more than K keys the last K stay."""
        size, count = len(self.keys), len(keys)
        kept = keys.detach()[-size:].to(self.keys.dtype)
        numbers = torch.arange(count - len(kept), count, device=keys.device)
        self.keys.index_copy_(0, (self.position + numbers) % size, kept)
        self.position.add_(count).remainder_(size)


class MoCoObjective(nn.Module):
    """The paper's losses with a queue of the momentum encoder's keys as negatives.

    The queues start as random unit vectors (means of S of them for segments), as MoCo's does.

    Args:
        config: Parts and temperatures, queue length, momentum, and the sizes of the embeddings.
        model: The network to be trained; copied, and never kept.
    """

    query_views = (0, 2, 3)
    key_views = (1,)

    def __init__(self, config: PretrainConfig, model: nn.Module) -> None:
        super().__init__()
        self.config, self.momentum = config.loss, config.moco.momentum
        self.parts = config.loss.objective.parts
        self.momentum_encoder: nn.Module = copy.deepcopy(model).requires_grad_(False)
        size = config.moco.queue_size
        # Drawn on the CPU: the same numbers whatever the device.
        self.clip_queue = KeyQueue(normalise(torch.randn(size, config.model.clip_dim)))
        if Part.COHERENCE in self.parts:
            shape = (size, config.clip.num_segments, config.model.segment_dim)
            self.segment_queue = KeyQueue(normalise(torch.randn(shape)).mean(dim=1))

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Move the momentum encoder a step towards a network with the same order of weights."""
        keys = [weight.detach() for weight in self.momentum_encoder.parameters()]
        queries = [weight.detach() for weight in model.parameters()]
        torch._foreach_lerp_(keys, queries, 1.0 - self.momentum)

    def forward(
        self, clip: Tensor, segments: Tensor, permutation: Tensor, video_ids: Tensor
    ) -> StepOutput:
        """Return the losses of B videos; then the keys of this batch join the queues.

        Args:
            clip: [B, 4, D] clip embeddings, view 1 as the momentum encoder's.
            segments: [B, 4, S, D'] segment embeddings, likewise; those of view 3 as the network
                saw them.
            permutation: [B, S]; segment i of view 3 is segment permutation[i] of view 2.
            video_ids: [B]; not needed, as the other videos of the batch are no candidates.
        """
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        contrasts = {"clip": (clip[:, 0], clip[:, 1], self.clip_queue)}
        if Part.COHERENCE in self.parts:
            means = segments[:, :2].mean(dim=2)
            contrasts["coherence"] = (means[:, 0], means[:, 1], self.segment_queue)
        for part, (query, view, queue) in contrasts.items():
            key, temperature = view.detach(), getattr(self.config, f"{part}_temperature")
            options = {"temperature": temperature, "backend": self.config.backend}
            result = queue_contrast(query, key, queue.keys, **options)
            losses[part] = result.loss
            metrics[f"{part}_top1"] = result.top1.float().mean()
            metrics[f"{part}_top5"] = result.top5.float().mean()
            queue.push(gather_rows(key))
        if Part.RANK in self.parts:
            losses["rank"], metrics["rank_accuracy"] = shuffle_rank_loss_with_metrics(
                torch.cat([segments[:, 0], segments[:, 2]]),
                segments[:, 3].repeat(2, 1, 1),
                permutation.repeat(2, 1),
                temperature=self.config.rank_temperature,
                clip=self.config.rank_clip,
                backend=self.config.backend,
            )
        metrics["spread"] = embedding_spread(clip[:, 0])
        total = torch.stack(list(losses.values())).sum()
        detached = {name: value.detach() for name, value in (losses | metrics).items()}
        return StepOutput(total, detached)


def queue_contrast(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float, backend: Backend
) -> ContrastiveResult:
    """Return InfoNCE of each query against its own key and all keys of a queue (arXiv:1911.05722).

    Args:
        query: [B, D] L2-normalised.
        key: [B, D] the positive of each query; no negative of the others.
        queue: [K, D] negatives.
        temperature: Softmax divisor.
        backend: See fastdual.losses.
    """
    # The key of a row must be a candidate of that row alone. So one more column carries its logit;
    # it meets the 1 of a single extra candidate, which is the positive of all rows.
    own = (query * key).sum(dim=1, keepdim=True)
    rows = torch.cat([query, own], dim=1)
    positive = nn.functional.pad(queue.new_ones(1, 1), (query.shape[1], 0))
    candidates = torch.cat([positive, nn.functional.pad(queue, (0, 1))])
    row_ids = torch.zeros(len(rows), dtype=torch.int64, device=query.device)
    candidate_ids = torch.full((len(candidates),), -1, dtype=torch.int64, device=query.device)
    candidate_ids[0] = 0
    return contrastive_loss_with_metrics(
        rows, candidates, row_ids, candidate_ids, temperature=temperature, backend=backend
    )


def gather_rows(rows: Tensor) -> Tensor:
    """Return the [B, D] rows of W processes as [W * B, D], in order of rank, without gradient."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
