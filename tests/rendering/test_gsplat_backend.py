"""gsplat, without a CUDA device: how it is probed and how it is called."""

import sys
import types

import pytest
import torch

from fourreal.rendering import gsplat_backend
from fourreal.rendering.projection import View

from .dense_twin import camera, cloud


def test_a_missing_gsplat_is_reported_once_with_the_remedy(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", None)
    gsplat_backend.why_not.cache_clear()
    try:
        assert not gsplat_backend.is_available() and not gsplat_backend.is_available()
    finally:
        gsplat_backend.why_not.cache_clear()
    assert len(caplog.records) == 1
    assert "pip install" in caplog.text and "rendering with torch" in caplog.text


# Some of the keywords of gsplat 1.5.3's rasterization, which 1.6 still has.
KEYWORDS = {
    *("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height"),
    *("near_plane", "eps2d", "sh_degree", "render_mode", "rasterize_mode"),
}


@pytest.mark.parametrize("antialiased, mode", [(False, "classic"), (True, "antialiased")])
def test_gsplat_is_called_with_what_its_versions_share(monkeypatch, antialiased, mode):
    seen = {}

    def rasterization(**given):
        assert set(given) <= KEYWORDS
        seen.update(given)
        shape = (1, given["height"], given["width"])
        return torch.ones(*shape, 4), torch.ones(*shape, 1), {}

    fake = types.SimpleNamespace(rasterization=rasterization)
    monkeypatch.setitem(sys.modules, "gsplat", fake)
    view = View(*camera(), 8, 6, antialiased)
    parts = gsplat_backend.rasterize_with_gsplat(cloud(5, 2), view)
    assert [tuple(x.shape) for x in parts] == [(1, 6, 8, 3), (1, 6, 8, 1), (1, 6, 8, 1)]
    assert seen["render_mode"] == "RGB+D" and seen["sh_degree"] == 2
    assert seen["rasterize_mode"] == mode
    assert seen["viewmats"][0, 3].tolist() == [0, 0, 0, 1]
