"""ResNets with a feature pyramid: torchvision's, with normalisation inside the convolutions wherever it is
fixed.

A fixed normalisation only scales and shifts each channel. Done to a convolution's weights (a few MB) and not
to its output (some hundred MB for a batch of large images) it saves a pass over every feature map, forward
and backward; the numbers are the same within rounding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

CHANNELS = 256
"""Of every level of the pyramid."""


class FrozenNorm(FrozenBatchNorm2d):
    """torchvision's, as one operation that keeps the number type of its input: a product with float32
    statistics would bring every feature map of a bfloat16 network back to float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class _Basic(BasicBlock):
    def forward(self, x: Tensor) -> Tensor:
        found = self.relu(_normalised(self.conv1, self.bn1, x))
        return _joined(self, _normalised(self.conv2, self.bn2, found), x)


class _Bottle(Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        found = self.relu(_normalised(self.conv1, self.bn1, x))
        found = self.relu(_normalised(self.conv2, self.bn2, found))
        return _joined(self, _normalised(self.conv3, self.bn3, found), x)


def _joined(block: Any, found: Tensor, x: Tensor) -> Tensor:
    beside = x if block.downsample is None else _normalised(block.downsample[0], block.downsample[1], x)
    found += beside
    joined: Tensor = block.relu(found)
    return joined


def _normalised(convolution: nn.Conv2d, norm: Any, x: Tensor) -> Tensor:
    if isinstance(norm, nn.BatchNorm2d) and norm.training:
        learned: Tensor = norm(convolution(x))
        return learned
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = convolution.weight * scale.view(-1, 1, 1, 1)
    bias = norm.bias - norm.running_mean * scale
    return F.conv2d(
        x, weight, bias, convolution.stride, convolution.padding, convolution.dilation, convolution.groups
    )


_RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (_Basic, [2, 2, 2, 2]),
    "resnet34": (_Basic, [3, 4, 6, 3]),
    "resnet50": (_Bottle, [3, 4, 6, 3]),
    "resnet101": (_Bottle, [3, 4, 23, 3]),
    "resnet152": (_Bottle, [3, 8, 36, 3]),
}


def backbone(name: str, norm: type[nn.Module], *, finest: int, coarse: bool) -> BackboneWithFPN:
    """A pyramid on top of `name` ("resnet50") with random weights and `norm` as its normalisation.

    `finest` is the first stage (1 to 4) that the pyramid shows. With `coarse` two levels that are learned
    follow the last stage (RetinaNet), else one that is pooled from it. Raises KeyError for another name.
    """
    block, depths = _RESNETS[name]
    body = ResNet(block, depths, norm_layer=norm)
    stages = range(finest, 5)
    return BackboneWithFPN(
        body,
        {f"layer{stage}": str(position) for position, stage in enumerate(stages)},
        [64 * block.expansion * 2 ** (stage - 1) for stage in stages],
        CHANNELS,
        extra_blocks=LastLevelP6P7(CHANNELS, CHANNELS) if coarse else None,
    )
