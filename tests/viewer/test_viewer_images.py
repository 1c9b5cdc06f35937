"""What the page draws, in real headless Chromium, against the torch renderer."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from fourreal.gaussians import Gaussians
from fourreal.viewer.serve import make_server

from ..tiny import psnr
from .letters import (
    ARROW,
    CENTER,
    DISTANCE,
    FOCAL,
    LETTER,
    PLACES,
    SIZE,
    STEP,
    TIMES,
    draw,
)
from .shown_page import ShownPage, running


def test_canvas_agrees_with_the_torch_renderer_at_every_input_camera(shown, rendered):
    for view in range(3):
        shown.do(f"fourreal.snap({view}); fourreal.setTime(0)")
        image = shown.image()
        assert image.shape == (SIZE, SIZE, 3)
        assert psnr(image, rendered(view, 0)) >= 38.0
    shown.keep("view_3")


def test_scrubbing_shows_eight_different_and_correct_images(shown, rendered):
    shown.do("fourreal.snap(0)")
    images = []
    for time in range(TIMES):
        shown.page.evaluate(
            f"() => {{ const s = document.getElementById('time'); s.value = {time};"
            "s.dispatchEvent(new Event('input')); }"
        )
        shown.wait_until_drawn(f"fourreal.state.shown === {time}")
        images.append(shown.image())
        scores = [psnr(images[-1], rendered(0, other)) for other in range(TIMES)]
        assert np.argmax(scores) == time
        assert scores[time] >= 38.0
    for a, b in pairwise(images):
        assert np.abs(a - b).max() > 0.2


def test_arrow_and_letter_stand_upright_and_unmirrored_in_viewer_and_renderer(shown, rendered):
    """Each dot of the glyphs is where u = f x / z + c, v = f y / z + c of the first camera is."""
    shown.do("fourreal.snap(0); fourreal.setTime(2)")
    shown.keep("arrow_and_letter")
    for image in (shown.image(), rendered(0, 2)):
        green = (image[..., 1] > 0.6) & (image[..., 0] < 0.4)
        red = (image[..., 0] > 0.6) & (image[..., 1] < 0.4)
        for glyph, seen in ((ARROW, green), (LETTER, red)):
            left, top = PLACES[glyph]
            for y, row in enumerate(glyph):
                for x, dot in enumerate(row):
                    u = FOCAL * (left + STEP * x) / DISTANCE + CENTER[0]
                    v = FOCAL * (top + STEP * y) / DISTANCE + CENTER[1]
                    assert seen[int(v), int(u)] == (dot == "1"), (glyph, x, y)


def test_highlight_dims_only_what_stands_still(shown):
    shown.do("fourreal.snap(0); fourreal.setTime(0); fourreal.stage.setHighlight(true)")
    dimmed = shown.image()
    shown.do("fourreal.stage.setHighlight(false)")
    bright = shown.image()
    yellow = (bright[..., 0] > 0.9) & (bright[..., 1] > 0.7)
    assert yellow.sum() > 100
    assert np.abs(dimmed - bright)[yellow].mean() < 0.05
    assert dimmed[~yellow].mean() < 0.5 * bright[~yellow].mean()


def test_scene_is_there_again_after_a_lost_context(shown, rendered):
    shown.do("fourreal.snap(0); fourreal.setTime(3)")
    shown.page.evaluate(
        "() => { window.loss = fourreal.stage.renderer.getContext()"
        ".getExtension('WEBGL_lose_context'); loss.loseContext(); }"
    )
    shown.page.wait_for_function("fourreal.state.lost")
    shown.page.evaluate("loss.restoreContext()")
    shown.wait_until_drawn()
    assert psnr(shown.image(), rendered(0, 3)) >= 38.0
    shown.keep("after_context_loss")


def colorful(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians with colours that depend on the direction."""
    count = (degree + 1) ** 2 - 1
    noise = torch.randn(len(gaussians), count, 3, generator=torch.Generator().manual_seed(degree))
    harmonics = torch.cat([gaussians.harmonics, 0.3 * noise.clamp(-3, 3)], 1)
    return replace(gaussians, harmonics=harmonics)


def test_served_page_shows_harmonics_as_the_renderer_does(browser, scene):
    """The moving Gaussians have degree 3, the others degree 1, in one page."""
    bright = replace(
        scene,
        static=colorful(scene.static, 1),
        dynamic=[colorful(gaussians, 3) for gaussians in scene.dynamic],
    )
    with running(make_server(bright)) as address:
        served = ShownPage(browser, address)
        for view, time in ((1, 4), (2, 7)):
            wanted, plain = draw(bright, view, time), draw(scene, view, time)
            served.do(f"fourreal.snap({view}); fourreal.setTime({time})")
            assert psnr(served.image(), wanted) >= 38.0 > psnr(plain, wanted)
        served.keep("harmonics")
        assert served.errors == []
        served.page.close()
