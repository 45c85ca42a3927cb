"""The backbone of the runs beside this file: an R(2+1)D so narrow that a checkpoint is small."""

from fastdual.backbones.layers import FactoredConv3d
from fastdual.backbones.residual import ResidualBackbone


def backbone() -> ResidualBackbone:
    return ResidualBackbone(
        FactoredConv3d, widths=(4, 4, 8, 8), stem_kernel=(3, 5, 5), stem_stride=(1, 2, 2)
    )
