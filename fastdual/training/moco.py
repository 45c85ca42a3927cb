"""MoCo (arXiv:1911.05722) for the dual representation: a momentum encoder and queues of its keys.

The momentum encoder embeds view 1, the keys of the two contrasts. The trained network embeds views
0, 2 and 3: the ranking of segments compares clips of one video, needs no queue, and would otherwise
lose its gradient on views 2 and 3. Without ranking it embeds view 0 alone.

Batch norm normalises queries over their views together (`model.batch_norm_views`) and keys over
view 1 alone, both over the whole batch. With several processes both must be synchronised. That
replaces the shuffling of keys between processes: statistics can then leak only what the global
batch has in common.

Shape letters: B videos of this process, V views, S segments, D embedding size, K queue length.
"""

import copy

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fastdual.config import PretrainConfig
from fastdual.functional import contrastive_loss_with_metrics
from fastdual.kernels.dispatch import Backend
from fastdual.kernels.dual_variance import two_view_rank
from fastdual.kernels.objective import Part
from fastdual.kernels.results import ContrastiveResult
from fastdual.model.dual import normalise
from fastdual.training.loop import StepOutput
from fastdual.training.objective import spread_of_videos

KEY_VIEW = 1  # what the momentum encoder embeds


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

    def __init__(self, config: PretrainConfig, model: nn.Module) -> None:
        super().__init__()
        self.config, self.momentum = config.loss, config.moco.momentum
        self.parts = config.loss.objective.parts
        self.momentum_encoder: nn.Module = copy.deepcopy(model).requires_grad_(False)
        size = config.moco.queue_size
        # Drawn on the CPU: the same numbers whatever the device.
        if Part.CLIP in self.parts:
            self.clip_queue = KeyQueue(normalise(torch.randn(size, config.model.clip_dim)))
        if Part.COHERENCE in self.parts:
            shape = (size, config.clip.num_segments, config.model.segment_dim)
            self.segment_queue = KeyQueue(normalise(torch.randn(shape)).mean(dim=1))

    @property
    def has_keys(self) -> bool:
        """Whether a part contrasts queries with keys; ranking alone does not."""
        return KEY_VIEW in self.config.objective.views

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Move the momentum encoder a step towards a network with the same order of weights."""
        keys = [weight.detach() for weight in self.momentum_encoder.parameters()]
        queries = [weight.detach() for weight in model.parameters()]
        torch._foreach_lerp_(keys, queries, 1.0 - self.momentum)

    def forward(
        self, clip: Tensor, segments: Tensor, permutation: Tensor | None, video_ids: Tensor
    ) -> StepOutput:
        """Return the losses of B videos; then the keys of this batch join the queues.

        Args:
            clip: [B, V, D] clip embeddings, each view at its number, view 1 as the momentum
                encoder's; V is 2 without ranking, else 4.
            segments: [B, V, S, D'] segment embeddings, likewise; those of view 3 as the network
                saw them.
            permutation: [B, S]; segment i of view 3 is segment permutation[i] of view 2. None
                without ranking.
            video_ids: [B]; not needed, as the other videos of the batch are no candidates.
        """
        losses: dict[Part, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for part, (query, key, queue) in self._contrasts(clip, segments).items():
            temperature = getattr(self.config, f"{part}_temperature")
            options = {"temperature": temperature, "backend": self.config.backend}
            result = queue_contrast(query, key, queue.keys, **options)
            losses[part] = result.loss
            metrics[f"{part}_top1"] = result.top1.float().mean()
            metrics[f"{part}_top5"] = result.top5.float().mean()
            queue.push(gather_rows(key))
        if Part.RANK in self.parts:
            assert permutation is not None
            losses[Part.RANK], metrics["rank_accuracy"] = two_view_rank(
                segments,
                permutation,
                temperature=self.config.rank_temperature,
                clip=self.config.rank_clip,
                backend=self.config.backend,
            )
        metrics |= spread_of_videos(self.config.objective, clip, segments)
        weighted = [getattr(self.config, f"{part}_weight") * loss for part, loss in losses.items()]
        detached = {str(name): value.detach() for name, value in (losses | metrics).items()}
        return StepOutput(torch.stack(weighted).sum(), detached)

    def _contrasts(
        self, clip: Tensor, segments: Tensor
    ) -> dict[Part, tuple[Tensor, Tensor, KeyQueue]]:
        """Return queries [B, D], their keys [B, D] and the queue of each contrast."""
        contrasts = {}
        if Part.CLIP in self.parts:
            contrasts[Part.CLIP] = (clip[:, 0], clip[:, KEY_VIEW].detach(), self.clip_queue)
        if Part.COHERENCE in self.parts:
            means = segments[:, :2].mean(dim=2)
            key = means[:, KEY_VIEW].detach()
            contrasts[Part.COHERENCE] = (means[:, 0], key, self.segment_queue)
        return contrasts


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
