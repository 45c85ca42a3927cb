"""Exact gradients of a contrastive loss over a batch too large for one backward pass.

Averaging the gradients of small batches is not the gradient of a large one: a contrast needs all
embeddings at once. So the chunks are embedded without a graph, the loss is taken over all
embeddings, and each chunk is embedded again with the gradient of its own embeddings at hand
(arXiv:2101.06983). Memory holds the activations of one chunk; the price is a second forward.

Without batch norm the gradient is that of one pass. With it, a chunk is normalised by its own
statistics (over all processes, where they are synchronised), in both passes alike, so the gradient
is exactly that of the loss over chunks normalised so; running statistics take one step a chunk, in
the second pass. Nothing in the network may draw random numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Embed = Callable[[Tensor], tuple[Tensor, ...]]


class ChunkedEmbeddings:
    """Embeddings of a batch, made chunk by chunk, whose graph is made when it is needed.

    Args:
        embed: from rows of `inputs` to a tuple of their embeddings, through `network`.
        network: whose weights get the gradient.
        inputs: [B, ...].
        num_chunks: parts of B, as equal as they can be.
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
        """Bring the gradient that has reached `embeddings` to the weights of the network."""
        # An embedding that no loss used leaves the weights behind it without a gradient, as ever.
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
    """Embeddings of [B, ...] inputs that no gradient is wanted of, a chunk at a time."""
    with torch.no_grad():
        parts = [embed(chunk) for chunk in inputs.tensor_split(num_chunks)]
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
