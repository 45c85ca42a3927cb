"""Which loss sees which view: what turns the embeddings of a batch into a loss and its metrics.

An objective is an nn.Module, so that one with state of its own (a queue, a momentum encoder) is
saved and restored with the rest of a run.
"""

from torch import Tensor, nn

from fastdual.config.sections import LossConfig
from fastdual.kernels.objective import Objective, Part
from fastdual.losses import DualVarianceLoss, DualVarianceSettings
from fastdual.training.collapse import embedding_spread
from fastdual.training.loop import StepOutput


class SimCLRObjective(nn.Module):
    """The paper's losses with the other videos of the batch as negatives, those of all processes.

    Args:
        config: Parts and temperatures.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.loss = DualVarianceLoss(
            backend=config.backend,
            gather="all",
            **{name: getattr(config, name) for name in DualVarianceSettings._fields},
        )

    def forward(
        self, clip: Tensor, segments: Tensor, permutation: Tensor | None, video_ids: Tensor
    ) -> StepOutput:
        """Return the losses of B videos.

        Args:
            clip: [B, V, D] clip embeddings, each view at its number; V = 2 without ranking, else 4.
            segments: [B, V, S, D'] segment embeddings, those of view 3 as the network saw them.
            permutation: [B, S]; segment i of view 3 is segment permutation[i] of view 2. None
                without ranking.
            video_ids: [B]; two slots that show the same video are positives of each other.
        """
        result = self.loss(clip, segments, permutation, video_ids)
        metrics = {name: value.detach() for name, value in result.measured().items()}
        spread = spread_of_videos(self.loss.objective, clip, segments)
        return StepOutput(result.total, metrics | spread)


def spread_of_videos(objective: str, clip: Tensor, segments: Tensor) -> dict[str, Tensor]:
    """Return the spread of the embeddings that an objective contrasts between videos, by name.

    Args:
        objective: Its contrast of clips is watched; without one, that of segments; without either
            there is no spread.
        clip: [B, V, D].
        segments: [B, V, S, D'].
    """
    parts = Objective(objective).parts
    if Part.CLIP in parts:
        return {"spread": embedding_spread(clip[:, 0])}
    if Part.COHERENCE in parts:
        return {"spread": embedding_spread(segments[:, 0, 0])}
    return {}
