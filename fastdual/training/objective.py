"""Which loss sees which view: what turns the embeddings of a batch into a loss and its metrics.

An objective is an nn.Module, so that one with state of its own (a queue, a momentum encoder) is
saved and restored with the rest of a run.
"""

from torch import Tensor, nn

from fastdual.config.sections import LossConfig
from fastdual.losses import DualVarianceLoss
from fastdual.training.collapse import embedding_spread
from fastdual.training.loop import StepOutput


class SimCLRObjective(nn.Module):
    """The paper's losses with the other videos of the batch as negatives, those of all processes.

    Args:
        config: Parts and temperatures.
    """

    query_views = (0, 1, 2, 3)

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.loss = DualVarianceLoss(
            objective=config.objective,
            backend=config.backend,
            gather="all",
            clip_temperature=config.clip_temperature,
            coherence_temperature=config.coherence_temperature,
            rank_temperature=config.rank_temperature,
            rank_clip=config.rank_clip,
        )

    def forward(
        self, clip: Tensor, segments: Tensor, permutation: Tensor, video_ids: Tensor
    ) -> StepOutput:
        """Return the losses of B videos.

        Args:
            clip: [B, V, D] clip embeddings of the four views.
            segments: [B, V, S, D'] segment embeddings, those of view 3 as the network saw them.
            permutation: [B, S]; segment i of view 3 is segment permutation[i] of view 2.
            video_ids: [B]; two slots that show the same video are positives of each other.
        """
        result = self.loss(clip, segments, permutation, video_ids)
        metrics = {name: value.detach() for name, value in result.measured().items()}
        return StepOutput(result.total, metrics | {"spread": embedding_spread(clip[:, 0])})
