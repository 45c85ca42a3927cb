"""Held-out embeddings: segments put back into order, videos once, the model left alone."""

import torch

from fastdual.evaluate.embed import EmbedOptions
from fastdual.evaluate.held_out import embed_held_out, held_out_embeddings
from fastdual.evaluate.pretext import measure
from fastdual.model.dual import create_model
from fastdual.weights.load import Network
from tests.evaluate.held_out_cases import Heads, batches
from tests.evaluate.small import small_config, small_index


def test_segments_are_put_back_into_order() -> None:
    """Four segments moved round by one: the inverse of that is another permutation."""
    held_out = held_out_embeddings(Heads(4), batches(12, 4, shuffle=True))  # type: ignore[arg-type]
    assert held_out.moved.all()
    similarity = torch.from_numpy(held_out.moved_similarity()).float()
    torch.testing.assert_close(similarity.diagonal(dim1=1, dim2=2), torch.ones(12, 4))
    assert (similarity.argmax(dim=2) == torch.arange(4)).all()


def test_videos_shown_twice_count_once() -> None:
    """Substitutes of bad videos: the same video in two slots would be no fair negative."""
    once = list(batches(8, 2, shuffle=True))
    metrics = measure(held_out_embeddings(Heads(2), [*once, once[0]]))  # type: ignore[arg-type]
    assert metrics.num_videos == 8
    assert metrics.clip_top1 == 1.0


def test_real_videos_give_the_same_numbers_twice_and_leave_the_model_alone() -> None:
    config, index = small_config(), small_index()
    torch.manual_seed(0)
    model = create_model(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network, options = Network(model, config, "ab" * 32), EmbedOptions(num_workers=1)
    results = []
    for _ in range(2):
        held_out = embed_held_out(network, index, split="test", options=options)
        results.append(measure(held_out))
    assert results[0] == results[1]
    assert results[0].num_videos == 8
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
