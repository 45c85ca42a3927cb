"""The losses as training code usually writes them: whole matrix, masks, torch operations.

The fused losses are measured against them, so they are written to be fast, and each is checked
against fastdual.kernels.reference before it is timed.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Return NT-Xent of two views [B, D]: all 2B x 2B logits, diagonal masked out."""
    rows = F.normalize(torch.cat([first, second]), dim=1)
    logits = (rows @ rows.T).float() / temperature
    num_rows = len(rows)
    itself = torch.eye(num_rows, dtype=torch.bool, device=rows.device)
    other_view = torch.arange(num_rows, device=rows.device).roll(num_rows // 2)
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), other_view)


def temporal_coherence(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Return the coherence of normalised segments [B, S, D]: similarities of all segment pairs."""
    rows = torch.cat([first, second])
    num_rows, num_segments, _ = rows.shape
    flat = rows.flatten(0, 1)
    pairs = (flat @ flat.T).float().view(num_rows, num_segments, num_rows, num_segments)
    logits = pairs.mean(dim=(1, 3)) / temperature
    itself = torch.eye(num_rows, dtype=torch.bool, device=rows.device)
    other_view = torch.arange(num_rows, device=rows.device).roll(num_rows // 2)
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), other_view)


def supcon(embeddings: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Return SupCon of embeddings [N, D], labels [N]: the mean over rows with a positive."""
    rows = F.normalize(embeddings, dim=1)
    logits = (rows @ rows.T).float() / temperature
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    positive = (labels[:, None] == labels) & ~itself
    log_share = logits - logits.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    count = positive.sum(dim=1)
    losses = -log_share.masked_fill(~positive, 0).sum(dim=1) / count.clamp(min=1)
    return losses.sum() / (count > 0).sum().clamp(min=1)


def clip(image: Tensor, text: Tensor, *, logit_scale: float) -> Tensor:
    """Return CLIP of normalised image and text [N, D]: one logit matrix, both ways."""
    logits = (image @ text.T).float() * logit_scale
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def shuffle_rank(x: Tensor, shuffled: Tensor, permutation: Tensor, *, temperature: float) -> Tensor:
    """Return shuffle-rank of normalised segments [B, S, D], put back in order: 2S x 2S products."""
    in_order = torch.empty_like(shuffled)
    in_order.scatter_(1, permutation[:, :, None].expand_as(shuffled), shuffled)
    rows = torch.cat([x, in_order], dim=1)
    similarity = (rows @ rows.transpose(1, 2)).float()
    size = similarity.shape[1]
    itself = torch.eye(size, dtype=torch.bool, device=x.device)
    match = itself.roll(size // 2, dims=1)
    matching = similarity[:, match][:, :, None]
    others = similarity[:, ~(itself | match)].view(len(x), size, size - 2)
    return F.softplus((others - matching) / temperature).mean()
