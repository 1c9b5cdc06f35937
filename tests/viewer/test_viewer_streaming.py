"""The page asks for what stands still once, and for what moves as the clock needs it."""

from collections import Counter

from fourreal.viewer.serve import make_server

from .letters import SIZE, TIMES
from .shown_page import running


def test_the_first_image_waits_for_time_0_only_and_static_gaussians_come_once(browser, scene):
    first = ("", "scene.json", "static.bin", "0.bin")
    asked, held = [], []

    def hold(route):
        """Answer what the first image needs; the others wait."""
        asked.append(route.request.url.split("/")[-1])
        if held is not None and asked[-1] not in first:
            held.append(route)
        else:
            route.continue_()

    with running(make_server(scene)) as address:
        page = browser.new_page(viewport={"width": SIZE, "height": SIZE})
        page.set_default_timeout(120_000)
        page.route("**/*", hold)
        page.goto(address)
        page.wait_for_function("window.fourreal?.state.drawn > 0 && fourreal.idle()")
        assert tuple(asked[:4]) == first
        waiting, held = held, None
        for route in waiting:
            route.continue_()
        for time in (*range(1, TIMES), 0):
            page.evaluate(f"fourreal.setTime({time})")
            page.wait_for_function(f"fourreal.state.shown === {time}")
        counts = Counter(name for name in asked if name.endswith(".bin"))
        assert counts == {"static.bin": 1} | {f"{time}.bin": 1 for time in range(TIMES)}
        page.close()
