"""Exact gradients of a contrastive loss over a batch too large for one backward pass.

Averaging the gradients of small batches is not the gradient of a large one: a contrast needs all
embeddings at once. So the chunks are embedded without a graph, the loss is computed over all
embeddings, and each chunk is embedded again to carry the gradient of its own embeddings back
(arXiv:2101.06983). Memory holds the activations of one chunk; the price is a second forward.

Without batch norm the gradient is that of one pass. With batch norm, each chunk is normalised by
its own statistics (over all processes, where they are synchronised), in both passes alike, so the
gradient is exactly that of the loss over such chunks. Running statistics take one step per chunk,
in the second pass. The network may not draw random numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Embed = Callable[[Tensor], tuple[Tensor, ...]]


class ChunkedEmbeddings:
    """Embeddings of a batch, computed chunk by chunk; their graph is built in the backward.

    Args:
        embed: From rows of `inputs` to a tuple of their embeddings, through `network`.
        network: Whose weights get the gradient.
        inputs: [B, ...].
        num_chunks: Parts of B, as equal as they can be.
    """

    def __init__(
        self, embed: Embed, network: nn.Module, inputs: Tensor, *, num_chunks: int
    ) -> None:
        self._embed = embed
        self._chunks = inputs.tensor_split(num_chunks)
        with torch.no_grad():
            statistics = [buffer.clone() for buffer in network.buffers()]
            parts = [embed(chunk) for chunk in self._chunks]
            for buffer, before in zip(network.buffers(), statistics, strict=True):
                buffer.copy_(before)
        self.embeddings = tuple(
            torch.cat(columns).requires_grad_() for columns in zip(*parts, strict=True)
        )

    def backward(self) -> None:
        """Carry the gradient of `embeddings` on to the weights of the network."""
        # As always, weights behind an embedding that no loss used get no gradient.
        used = [i for i, embedding in enumerate(self.embeddings) if embedding.grad is not None]
        num_chunks = len(self._chunks)
        columns = [_gradient(self.embeddings[i]).tensor_split(num_chunks) for i in used]
        for number, chunk in enumerate(self._chunks):
            outputs = self._embed(chunk)
            torch.autograd.backward(
                [outputs[i] for i in used], [column[number] for column in columns]
            )


def _gradient(embedding: Tensor) -> Tensor:
    assert embedding.grad is not None
    return embedding.grad


def embed_without_graph(embed: Embed, inputs: Tensor, *, num_chunks: int) -> tuple[Tensor, ...]:
    """Return the embeddings of [B, ...] inputs, one chunk at a time, without a gradient."""
    with torch.no_grad():
        parts = [embed(chunk) for chunk in inputs.tensor_split(num_chunks)]
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
