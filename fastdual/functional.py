"""The losses of fastdual.losses without state: plain functions of embeddings.

Every contrast is one operation, `contrastive_loss`, told by integers what two rows are to each
other: equal *ids* make a positive, equal *groups* a pair that is ignored, the rest are negatives.
The arguments `backend` and `gather` mean the same everywhere; fastdual.losses explains them.
"""

import torch
from torch import Tensor

from fastdual.kernels.checks import (
    as_temperature,
    check_ids,
    check_rows,
    check_same_device,
    check_views,
)
from fastdual.kernels.contrastive.gather import processes_to_gather
from fastdual.kernels.contrastive.op import MAX_DIM
from fastdual.kernels.contrastive.problem import Layout
from fastdual.kernels.dispatch import (
    Backend,
    Gather,
    batch_contrast,
    contrastive_loss,
    contrastive_loss_with_metrics,
    local_numbers,
    shuffle_rank_loss,
    shuffle_rank_loss_with_metrics,
    widen_mixed,
)
from fastdual.kernels.dual_variance import (
    dual_variance_loss,
    temporal_coherence_loss_with_metrics,
    two_view_contrast,
)

__all__ = [
    "clip_loss",
    "contrastive_loss",
    "contrastive_loss_with_metrics",
    "dual_variance_loss",
    "local_numbers",
    "shuffle_rank_loss",
    "shuffle_rank_loss_with_metrics",
    "supcon_loss",
    "temporal_coherence_loss_with_metrics",
    "two_view_contrast",
]


def supcon_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    backend: Backend = "auto",
    gather: Gather = None,
) -> Tensor:
    """SupCon (arXiv:2004.11362): embeddings [N, D], labels [N] int64 -> 0-d."""
    check_rows("embeddings", embeddings, max_dim=MAX_DIM)
    check_ids("labels", labels, len(embeddings), "embeddings")
    check_same_device(embeddings=embeddings, labels=labels)
    return batch_contrast(
        embeddings,
        labels,
        # Each row is a sample, and a group of its own, so that it alone is ignored.
        Layout(id_run=1, num_ids=len(embeddings), group_run=1),
        temperature=temperature,
        positives="mean",
        normalize=normalize,
        backend=backend,
        gather=gather,
        metrics=False,
    ).loss


def clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    *,
    backend: Backend = "auto",
    gather: Gather = None,
) -> Tensor:
    """CLIP (arXiv:2103.00020): image, text [N, D] L2-normalised -> 0-d, mean of both directions.

    `logit_scale` multiplies the dot products (1 / temperature), a float or a tensor of one element,
    which gets a gradient.
    """
    image, text = widen_mixed(image, text)
    check_views("[N, D]", max_dim=MAX_DIM, image=image, text=text)
    if isinstance(logit_scale, Tensor) and logit_scale.numel() == 1:
        logit_scale = logit_scale.reshape(())
    logit_scale = as_temperature(logit_scale, "logit_scale")
    # Both directions at once: what an image meets are the texts, for images are all of one group.
    # Among several processes, and for the plain formula, each direction by itself: the rows' own
    # kind would be multiplied just to be ignored.
    if backend != "eager" and processes_to_gather(gather) == 1:
        layout = Layout(id_run=1, num_ids=len(image), group_run=len(image))
        return batch_contrast(
            torch.cat([image, text]), None, layout, temperature=logit_scale, is_scale=True,
            backend=backend, metrics=False,
        ).loss  # fmt: skip
    ids = local_numbers(len(image), device=image.device)
    to_text, to_image = (
        contrastive_loss(
            query, key, ids, ids, temperature=1.0 / logit_scale, backend=backend, gather=gather
        )
        for query, key in ((image, text), (text, image))
    )
    return (to_text + to_image) / 2
