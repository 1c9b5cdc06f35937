"""LPIPS against a second implementation of its formula."""

import pytest
import torch
from torch.nn.functional import normalize

from fourreal.metrics import lpips as perceptual


def test_lpips_is_the_published_formula_on_a_vgg16_file(tmp_path, monkeypatch):
    widths = ((4, 2), (4, 2), (4, 3), (4, 3), (4, 3))
    monkeypatch.setattr(perceptual, "WIDTHS", widths)
    torch.manual_seed(0)
    places, weights, before = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], {}, 3
    for place in places:
        weights[f"features.{place}.weight"] = torch.randn(4, before, 3, 3) * 0.4
        weights[f"features.{place}.bias"] = torch.randn(4) * 0.1
        before = 4
    torch.save(weights, tmp_path / "vgg16.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, 4, 1, 1) for i in range(5)}
    load = torch.load
    monkeypatch.setattr(
        perceptual.torch,
        "load",
        lambda path, **options: heads if path.name == "vgg.pth" else load(path, **options),
    )
    model = perceptual.Lpips(tmp_path / "vgg16.pth")
    a, b = torch.rand(2, 1, 3, 32, 32)
    # Second source: torchvision's layer list as plain modules, in float64.
    layers, total = [], 0.0
    for place in range(30):
        if place in places:
            conv = torch.nn.Conv2d(1, 1, 3, padding=1).double()
            conv.weight.data = weights[f"features.{place}.weight"].double()
            conv.bias.data = weights[f"features.{place}.bias"].double()
            layers.append(conv)
        else:
            layers.append(torch.nn.MaxPool2d(2) if place in (4, 9, 16, 23) else torch.nn.ReLU())
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
    x, y = (((2 * image.double() - 1) - shift) / scale for image in (a, b))
    for place, layer in enumerate(layers):
        x, y = layer(x), layer(y)
        if place in (3, 8, 15, 22, 29):
            head = heads[f"lin{(3, 8, 15, 22, 29).index(place)}.model.1.weight"].double()
            difference = (normalize(x, eps=1e-10) - normalize(y, eps=1e-10)).square()
            total = total + (difference * head).sum(1).mean()
    assert float(model(a, b)) == pytest.approx(total.item(), rel=1e-4)
    assert float(model(a, a)) == 0
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is not torchvision's VGG16"):
        perceptual.Lpips(tmp_path / "other.pth")
