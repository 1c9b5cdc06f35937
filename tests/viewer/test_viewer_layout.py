"""The page at the sizes of a node, a window and a strip: buttons, settings, input frame."""

from itertools import combinations

import pytest

from .shown_page import ShownPage

SIZES = [(270, 378), (420, 480), (900, 600), (1600, 500)]
BUTTONS = ("play", "back", "next", "key", "unkey", "along", "home", "settings", "full")


@pytest.fixture
def resized(shown):
    """shown, given another size by resize(width, height)."""

    def resize(width: int, height: int) -> ShownPage:
        shown.page.set_viewport_size({"width": width, "height": height})
        shown.page.wait_for_function(
            "([w, h]) => innerWidth === w && innerHeight === h", arg=[width, height]
        )
        shown.do("fourreal.snap(0)")
        return shown

    yield resize
    shown.page.set_viewport_size(shown.canvas_only)
    shown.page.wait_for_function(f"innerHeight === {shown.canvas_only['height']}")
    shown.do("fourreal.snap(0)")


def apart(a: dict, b: dict) -> bool:
    """Whether two boxes do not overlap."""
    return (
        a["x"] + a["width"] <= b["x"] + 0.5
        or b["x"] + b["width"] <= a["x"] + 0.5
        or a["y"] + a["height"] <= b["y"] + 0.5
        or b["y"] + b["height"] <= a["y"] + 0.5
    )


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_all_buttons_are_there_and_settings_stand_beside_the_picture(resized, width, height):
    shown = resized(width, height)
    page = shown.page
    boxes = [page.locator(f"#{name}").bounding_box() for name in (*BUTTONS, "track", "clock")]
    for box in boxes:
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert box["y"] >= 0 and box["y"] + box["height"] <= height
        assert box["width"] >= 24 and box["height"] >= 16
    assert all(apart(a, b) for a, b in combinations(boxes, 2))
    page.locator("#settings").click()
    shown.do("")
    panel, stage, bar = (
        page.locator(f"#{name}").bounding_box() for name in ("panel", "stage", "bar")
    )
    assert apart(panel, stage) and apart(panel, bar)
    assert min(stage["width"], stage["height"]) >= 160
    shown.keep(f"settings_{width}")
    page.locator("#settings").click()
    shown.do("")
    shown.keep(f"plain_{width}")


@pytest.mark.parametrize(("width", "height"), SIZES[1:])
def test_the_input_frame_covers_the_picture(resized, width, height):
    shown = resized(width, height)
    shown.do(f"fourreal.setTime({SIZES.index((width, height))})")
    with shown.another_input_frame():
        shown.set("fade", "0.5")
    frame = shown.page.locator("#frame").bounding_box()
    canvas = shown.page.locator("#canvas").bounding_box()
    side = min(canvas["width"], canvas["height"])  # the scene's images are square
    assert frame["width"] == pytest.approx(side) == pytest.approx(frame["height"])
    assert frame["x"] == pytest.approx(canvas["x"] + (canvas["width"] - side) / 2)
    shown.set("fade", "0")
