"""The losses of fastdual.losses without state: plain functions of embeddings.

Every contrast is one operation, `contrastive_loss`, to which integers say what two rows are to each
other: equal *ids* make a positive, equal *groups* an ignored pair, and the rest are negatives. The
arguments `backend` and `gather` mean the same everywhere; fastdual.losses explains them.
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
from fastdual.kernels.contrastive.gather import local_numbers, processes_to_gather
from fastdual.kernels.contrastive.loss import (
    batch_problem,
    contrastive_loss,
    contrastive_loss_with_metrics,
    run,
)
from fastdual.kernels.contrastive.problem import Layout, Settings
from fastdual.kernels.dispatch import Backend, Gather, widen_mixed
from fastdual.kernels.dual_variance import (
    dual_variance_loss,
    temporal_coherence_loss_with_metrics,
    two_view_contrast,
)
from fastdual.kernels.shuffle_rank.loss import shuffle_rank_loss, shuffle_rank_loss_with_metrics

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
    """Return SupCon (arXiv:2004.11362), the mean over the rows that have a positive, 0-d.

    Args:
        embeddings: [N, D].
        labels: [N] int64 or int32; rows of the same label are positives, of a negative label none.
        temperature: Softmax divisor, a float or a 0-d tensor, which gets a gradient.
        normalize: L2-normalise the embeddings in the same pass.
        backend: See fastdual.losses.
        gather: See fastdual.losses.

    Raises:
        ValueError: An argument does not fit.
    """
    check_rows("embeddings", embeddings)
    check_ids("labels", labels, len(embeddings), "embeddings")
    check_same_device(embeddings=embeddings, labels=labels)
    # Each row is a sample, and a group of its own, so that it alone is ignored.
    layout = Layout(id_run=1, num_ids=len(embeddings), group_run=1)
    settings = Settings("mean", normalize=normalize, metrics=False)
    problem = batch_problem(embeddings, labels, layout, temperature, settings)
    return run(problem, backend, gather).loss


def clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    *,
    backend: Backend = "auto",
    gather: Gather = None,
) -> Tensor:
    """Return CLIP's loss (arXiv:2103.00020), the mean of both directions, 0-d.

    Args:
        image: [N, D] L2-normalised.
        text: [N, D] L2-normalised, row for row.
        logit_scale: What multiplies the dot products (1 / temperature), a float or a tensor of one
            element, which gets a gradient.
        backend: See fastdual.losses.
        gather: See fastdual.losses.

    Raises:
        ValueError: An argument does not fit.
    """
    image, text = widen_mixed(image, text)
    check_views("[N, D]", image=image, text=text)
    if isinstance(logit_scale, Tensor) and logit_scale.numel() == 1:
        logit_scale = logit_scale.reshape(())
    logit_scale = as_temperature(logit_scale, "logit_scale")
    # Both directions at once: images are one group, so they meet only texts. The eager formula and
    # several processes take each direction by itself: products within a kind would be wasted.
    if backend != "eager" and processes_to_gather(gather) == 1:
        layout = Layout(id_run=1, num_ids=len(image), group_run=len(image))
        settings = Settings(metrics=False, is_scale=True)
        rows = torch.cat([image, text])
        return run(batch_problem(rows, None, layout, logit_scale, settings), backend, None).loss
    ids = local_numbers(len(image), device=image.device)
    to_text, to_image = (
        contrastive_loss(
            query, key, ids, ids, temperature=1.0 / logit_scale, backend=backend, gather=gather
        )
        for query, key in ((image, text), (text, image))
    )
    return (to_text + to_image) / 2
