"""LPIPS (Zhang et al., arXiv 1801.03924) on a VGG16 file that the user has.

The learned weights of its five layers come with torchmetrics; the backbone (torchvision's
`vgg16-*.pth`, of 528 MB) does not, and nothing is downloaded here.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourreal.metrics.pixels import import_torchmetrics

WIDTHS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and layers per stage
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]


class Lpips(nn.Module):
    """Perceptual distance between images: 0 for equal ones."""

    def __init__(self, backbone: Path):
        """Raises ValueError when the file is not torchvision's VGG16, and without torchmetrics."""
        super().__init__()
        lpips = import_torchmetrics().lpips
        try:
            content = torch.load(backbone, map_location="cpu", weights_only=True)
            convolutions = [
                (content[f"features.{i}.weight"], content[f"features.{i}.bias"])
                for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
            ]
        except Exception as error:  # torch.load raises many kinds for damaged or foreign files
            raise ValueError(
                f"{backbone} is not torchvision's VGG16 ({type(error).__name__}); give the file "
                "vgg16-397923af.pth, or leave it out."
            ) from error
        self.weights = nn.ParameterList(p for pair in convolutions for p in pair)
        learned = Path(lpips.__file__).parent / "lpips_models" / "vgg.pth"
        content = torch.load(learned, map_location="cpu", weights_only=True)
        self.heads = nn.ParameterList(content[f"lin{i}.model.1.weight"] for i in range(len(WIDTHS)))
        self.requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Normalised features of each stage of images [N, 3, H, W] in [0, 1]."""
        shift, scale = (x.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
        x = (2 * x - 1 - shift) / scale
        weights, stages = iter(self.weights), []
        for stage, (_, layers) in enumerate(WIDTHS):
            if stage:
                x = F.max_pool2d(x, 2)
            for _ in range(layers):
                x = F.conv2d(x, next(weights), next(weights), padding=1).relu()
            stages.append(x / (x.square().sum(1, keepdim=True) + 1e-20).sqrt())
        return stages

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The mean distance of images a and b [N, 3, H, W] in [0, 1]; H and W at least 16."""
        stages = zip(self.features(a), self.features(b), self.heads)
        distances = [F.conv2d((x - y).square(), head).mean() for x, y, head in stages]
        return torch.stack(distances).sum()
