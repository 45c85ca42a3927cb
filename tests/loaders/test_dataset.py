"""ClipDataset under torch's DataLoader, torchdata, Lightning, Accelerate and several processes."""

from itertools import islice
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from fastdual.errors import InputError
from fastdual.loaders.dataset import ClipDataset
from fastdual.loaders.index import VideoIndex
from tests.loaders.loading import SPEC, assert_same, load

OPTIONS: dict[str, Any] = {"batch_size": 4, "num_workers": 1, "seed": 3}


@pytest.fixture
def dataset(index: VideoIndex) -> ClipDataset:
    return ClipDataset(index, SPEC, **OPTIONS)


def test_torchs_dataloader_yields_the_loaders_batches(
    index: VideoIndex, dataset: ClipDataset
) -> None:
    loader = DataLoader(dataset, batch_size=None)
    assert len(loader) == len(dataset) == 3
    assert_same([*loader, *loader], load(index, 6))


def test_an_epoch_that_was_broken_off_is_followed_by_the_next(
    index: VideoIndex, dataset: ClipDataset
) -> None:
    next(iter(dataset))
    assert_same(list(dataset), load(index, 6)[3:])


def test_a_stateful_dataloader_resumes_in_the_middle(index: VideoIndex) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    first = StatefulDataLoader(ClipDataset(index, SPEC, **OPTIONS), batch_size=None)
    started = list(islice(first, 2))
    state = first.state_dict()
    second = StatefulDataLoader(ClipDataset(index, SPEC, **OPTIONS), batch_size=None)
    second.load_state_dict(state)
    assert_same([*started, *second, *second], load(index, 6))


def test_a_state_of_other_data_is_refused(index: VideoIndex, dataset: ClipDataset) -> None:
    other = ClipDataset(index, SPEC, **{**OPTIONS, "seed": 4})
    with pytest.raises(InputError, match="saved with seed 4"):
        dataset.load_state_dict(other.state_dict())


def test_an_epoch_can_be_chosen(index: VideoIndex, dataset: ClipDataset) -> None:
    next(iter(dataset))
    dataset.set_epoch(1)
    assert_same(list(dataset), load(index, 6)[3:])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch_size": 0}, "batch_size is 0"), ({"split": "nope"}, "no split 'nope'")],
)
def test_a_mistake_is_told_where_it_is_made(
    index: VideoIndex, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ClipDataset(index, SPEC, **{**OPTIONS, **change})
    with pytest.raises(InputError, match="nowhere does not exist"):
        ClipDataset("nowhere", batch_size=1)


def test_it_says_what_it_is(dataset: ClipDataset) -> None:
    assert repr(dataset).startswith("ClipDataset(13 videos in ")


def test_workers_of_the_dataloader_are_refused(dataset: ClipDataset) -> None:
    with pytest.raises(InputError, match=r"use DataLoader\(num_workers=0\)"):
        next(iter(DataLoader(dataset, batch_size=None, num_workers=1)))


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_on_it(dataset: ClipDataset) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.LazyLinear(4)
            self.seen: list[int] = []

        def training_step(self, batch: Any) -> torch.Tensor:
            self.seen += batch.video_ids.tolist()
            loss = self.layer(batch.clips[:, 0].flatten(1)).square().mean()
            self.log("loss", loss, batch_size=len(batch))
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module = Module()
    module.layer(torch.zeros(1, 3 * 4 * 32 * 32))
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(dataset, batch_size=None))
    assert trainer.global_step == 6 and len(module.seen) == 24


def test_accelerate_trains_on_it(index: VideoIndex, dataset: ClipDataset) -> None:
    """The loader itself is not prepared: each process has its own part of a batch already."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(3 * 4 * 32 * 32, 4)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))
    before = [parameter.clone() for parameter in model.parameters()]
    seen = []
    for batch in DataLoader(dataset, batch_size=None):
        batch = batch.to(accelerator.device)
        accelerator.backward(model(batch.clips[:, 0].flatten(1)).square().mean())
        optimizer.step()
        seen.append(batch)
    assert_same(seen, load(index, 3))
    assert not torch.equal(before[0], next(model.parameters()))


def test_each_process_yields_its_part(
    index: VideoIndex, dataset: ClipDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with batches of 2 share the batches of 4; asked anew when the world changes."""
    whole = load(index, 3)
    halves = ClipDataset(index, SPEC, **{**OPTIONS, "batch_size": 2})
    assert len(halves) == 6
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        part = list(halves)
        assert len(halves) == 3
        for ours, all_of in zip(part, whole, strict=True):
            assert torch.equal(ours.clips, all_of.clips[2 * rank : 2 * rank + 2])
