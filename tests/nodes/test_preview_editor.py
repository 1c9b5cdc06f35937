"""Preview 4D in the real editor: always the newest result of its node, however it came about."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fourreal.cameras import look_at, pixel_intrinsics
from fourreal.formats import save_scene
from fourreal.gaussians import Gaussians, GaussianScene, rgb_to_harmonics

from ..comfyui import ROOT, needs_comfyui, prompt_of
from ..tiny import pixels, psnr
from .editor import DRAFT, FRAME, NODE, Editor, drag, image

pytestmark = needs_comfyui
COLORS = ("red", "green", "blue")
TIMES = 5
WORKFLOW = ROOT / "workflows" / "Text to 4D.json"


@pytest.fixture(scope="module")
def files(server, info):
    """A scene file of each colour in the server's input folder, and the folder of kept scenes."""

    def some(count: int, rgb: list[float]) -> Gaussians:
        return Gaussians(
            torch.randn(count, 3) / 2 + torch.tensor([0.0, 0, 4]),
            torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            torch.full((count, 3), 0.3),
            torch.full((count,), 0.9),
            rgb_to_harmonics(torch.tensor(rgb).expand(count, 3)),
        )

    for channel, name in enumerate(COLORS):
        torch.manual_seed(0)
        rgb = [float(c == channel) for c in range(3)]
        eyes, target = torch.tensor([[0.0, 0, 0], [1.0, -0.5, 0.2]]), torch.tensor([0.0, 0, 4])
        scene = GaussianScene(
            some(40, rgb),
            [some(5, rgb) for _ in range(TIMES)],
            look_at(eyes, target, torch.tensor([0.0, -1, 0])),
            pixel_intrinsics(torch.full((2,), 0.9), 48, 64),
            64,
            48,
        )
        save_scene(scene, server.base / "input" / f"{name}.safetensors")
    return server.base / "output" / "4real" / "previews"


def workflow(color: str, images: bool = False) -> str:
    """Load Scene into Preview 4D as the text of a workflow's file; maybe Example Scene's images."""

    def node(number: int, name: str, links: list, slot: dict, values: list, size: list) -> dict:
        place = {"id": number, "type": f"FourReal_{name}", "pos": [500 * number, 100], "size": size}
        empty = {"flags": {}, "order": number, "mode": 0, "properties": {}}
        return place | empty | {"inputs": links, "outputs": slot, "widgets_values": values}

    scene = [{"name": "SCENE", "type": "FOURREAL_SCENE", "links": [1]}]
    links = [[1, 1, 0, 3, 0, "FOURREAL_SCENE"]]
    nodes = [
        node(1, "LoadScene", [], scene, [f"{color}.safetensors"], [300, 80]),
        node(3, "Preview4D", [], [], [], [520, 560]),
    ]
    nodes[1]["inputs"] = [
        {"name": "scene", "type": "FOURREAL_SCENE,SPLAT", "link": 1},
        {"name": "images", "type": "IMAGE", "link": 2 if images else None},
    ]
    if images:
        slot = [{"name": "images", "type": "IMAGE", "links": [2]}]
        values = [0, "fixed", 2, TIMES, 64, 48]
        nodes.append(node(2, "ExampleScene", [], slot, values, [300, 200]))
        links.append([2, 2, 0, 3, 1, "IMAGE"])
    rest = {"last_node_id": 3, "last_link_id": 2, "groups": [], "config": {}, "extra": {}}
    return json.dumps(rest | {"nodes": nodes, "links": links, "version": 0.4})


def busy(color: int) -> dict:
    """A prompt that takes longer than a change of tabs, unless there was one of this colour."""
    black = {"width": 512, "height": 512, "batch_size": 300, "color": color}
    images = {"images": ["1", 0]}
    return prompt_of({"1": ("EmptyImage", black), "2": ("PreviewImage", images)})


class Tab(Editor):
    """The editor, with the file that Load Scene reads and the colour that Preview 4D shows."""

    def load(self, color: str):
        self.page.evaluate(
            "(file) => { app.graph.nodes.find((node) => node.type === 'FourReal_LoadScene')"
            ".widgets[0].value = file; }",
            f"{color}.safetensors",
        )

    def scene(self) -> str | None:
        """The name of the scene that the frame shows, which is not there without one."""
        frame = self.page.query_selector(FRAME)
        return frame and frame.get_attribute("src").split("previews%252F")[1].split("%26")[0]

    def shows(self, color: str) -> bool:
        """Wait until the picture is of the colour; and the only frame."""
        self.look()
        for _ in range(40):
            shown = image(self.viewer()).mean((0, 1))
            if shown[COLORS.index(color)] == shown.max() > 5 * sorted(shown)[1]:
                return len(self.page.query_selector_all(FRAME)) == 1
            self.page.wait_for_timeout(250)
        return False


@pytest.fixture(params=[False, True], ids=["classic", "vue"])
def editor(request, browser, server, files):
    editor = Tab(browser, server, request.param)
    yield editor
    assert editor.errors == []
    editor.page.close()


def test_it_shows_what_ended_elsewhere_and_what_is_loaded(editor, server, files):
    page = editor.page
    editor.drop(workflow("red"), "first.json")
    editor.queue()
    assert editor.shows("red")
    red = list(server.ask("/history").items())[-1][1]
    # It ends while another workflow is in front, whose node has the same number.
    editor.drop(workflow("blue"), "second.json")
    editor.queue()
    assert editor.shows("blue")
    editor.tab("first")
    assert editor.shows("red")
    editor.load("green")
    done = len(server.ask("/history"))
    # After this one, so that it ends after the change of tabs.
    server.ask("/prompt", {"prompt": busy(done)})
    page.evaluate("app.queuePrompt(0)")
    editor.tab("second")
    assert len(server.ask("/history")) == done
    server.wait_for(lambda: len(server.ask("/history")) == done + 2, 300)
    page.wait_for_timeout(1000)
    assert editor.shows("blue")
    editor.tab("first")
    assert editor.shows("green")
    editor.keep("elsewhere")
    # A job of the history, as the list of jobs loads it.
    page.evaluate(
        "async ([workflow, outputs]) => {"
        " await app.loadGraphData(workflow); app.nodeOutputs = outputs; }",
        [red["prompt"][3]["extra_pnginfo"]["workflow"], red["outputs"]],
    )
    assert editor.shows("red")


def test_it_shows_what_ended_while_no_page_was_open(editor, server, files):
    editor.drop(workflow("red"), "closed.json")
    editor.queue()
    assert editor.shows("red")
    editor.page.wait_for_timeout(1500)  # the editor keeps a draft of the workflow
    editor.load("blue")
    queued = editor.page.evaluate("async () => (await app.graphToPrompt())")
    prompt = {"prompt": queued["output"], "extra_data": {"extra_pnginfo": queued["workflow"]}}
    editor.page.goto("about:blank")
    done = len(server.ask("/history"))
    server.ask("/prompt", prompt)
    server.wait_for(lambda: len(server.ask("/history")) > done, 60)
    editor.page.goto(server.url)
    editor.page.wait_for_function(f"window.app?.graph && {NODE}")
    assert editor.shows("blue")


def test_it_shows_its_scene_after_a_restart_and_says_when_it_is_gone(editor, server, files):
    editor.drop(workflow("green"), "restarted.json")
    editor.queue()
    assert editor.shows("green")
    scene = editor.scene()
    editor.page.wait_for_timeout(1500)
    server.restart()
    editor.reload()
    assert editor.shows("green") and editor.scene() == scene
    shutil.rmtree(files / scene)
    editor.reload()
    editor.page.wait_for_selector("text=The files of this scene are no longer kept")
    assert editor.scene() is None
    editor.look()
    editor.keep("gone")
    editor.queue()  # and what ComfyUI remembers of the run leads to no files that are gone
    assert editor.shows("green")
    shutil.rmtree(files / scene)
    editor.queue()
    assert editor.shows("green") and (files / scene).is_dir()


def test_twenty_nodes_come_and_go(editor, files):
    page = editor.page
    editor.drop(workflow("red"), "cycles.json")
    editor.queue()
    for _ in range(20):
        assert page.evaluate(
            f"""async () => {{
              app.graph.remove({NODE});
              const node = LiteGraph.createNode("FourReal_Preview4D");
              app.graph.add(node);
              node.pos = [1500, 100];
              const from = app.graph.nodes.find(({{ type }}) => type === "FourReal_LoadScene");
              from.connect(0, node, 0);
              await new Promise(requestAnimationFrame);
              return [...node.size];
            }}"""
        ) == [420, 480]
    editor.queue()
    assert editor.shows("red")
    editor.keep("new")
    # The keyboard is the viewer's after a click in it. Once, not twice.
    done = len(editor.server.ask("/history"))
    editor.viewer().locator("#canvas").click()
    page.keyboard.press("Control+Enter")
    editor.server.wait_for(lambda: len(editor.server.ask("/history")) > done, 60)
    page.wait_for_timeout(1000)
    assert len(editor.server.ask("/history")) == done + 1
    page.evaluate(f"app.graph.remove({NODE})")
    page.wait_for_function(f'!document.querySelector("{FRAME}")')


def test_the_input_frame_can_be_faded_over_the_view(editor, files):
    editor.drop(workflow("red", images=True), "images.json")
    editor.queue()
    editor.look()
    viewer = editor.viewer()
    assert viewer.evaluate("() => document.getElementById('frame').naturalWidth") == 0
    viewer.evaluate(
        "() => { const fade = document.getElementById('fade'); fade.value = 1;"
        " fade.dispatchEvent(new Event('input')); }"
    )
    viewer.wait_for_function("document.getElementById('frame').naturalWidth === 64")
    assert not viewer.evaluate("() => document.getElementById('fade').parentElement.hidden")
    editor.keep("input_frame")


def test_what_is_seen_and_the_keyframes_come_out(editor, server, files):
    page = editor.page
    editor.drop(workflow("green"), "keyframes.json")
    editor.queue()
    editor.look()
    viewer = editor.viewer()
    viewer.evaluate("document.getElementById('soft').click()")  # the edges are drawn as they are
    viewer.locator("#key").click()
    viewer.evaluate(f"fourreal.setTime({TIMES - 1})")
    drag(page, viewer, 60, 20)
    viewer.wait_for_function("fourreal.idle()")
    viewer.locator("#key").click()
    told = f"{NODE}.properties['Viewer state'].path.length === 2"
    page.wait_for_function(told)  # the page tells it in its own time
    view = editor.prompt()["view"]
    assert [keyframe["time"] for keyframe in view["path"]] == [0, TIMES - 1]
    assert view["path"][1]["camera"] == {k: view[k] for k in view["path"][1]["camera"]}
    editor.keep("keyframes")

    scene, size = ["1", 0], {"width": 0, "height": 0, "background": "#000000", "fps": 0.0}
    outputs = server.run(
        prompt_of(
            {
                "1": ("FourReal_LoadScene", {"scene_file": "green.safetensors"}),
                "2": ("FourReal_Preview4D", {"scene": scene, "view": view}),
                "3": ("FourReal_RenderSplats", {"scene": scene, "camera_path": ["2", 3]} | size),
                "4": ("PreviewImage", {"images": ["2", 2]}),
                "5": ("PreviewImage", {"images": ["3", 0]}),
            }
        )
    )
    (seen,), path = (temporary_images(server, outputs[node]["images"]) for node in "45")
    assert len(path) == TIMES and seen.shape == (48, 64, 3)
    assert np.abs(path[-1] - seen).max() < 0.02 and psnr(path[0], seen) < 30
    # As drawn by the viewer, where the picture of an input camera would lie.
    drawn = image(viewer)
    scale = drawn.shape[1] / viewer.evaluate("fourreal.camera.width")
    place = viewer.evaluate("fourreal.camera.rectangle")
    left, top, width, height = (
        round(place[side] * scale) for side in ("left", "top", "width", "height")
    )
    window = Image.fromarray((drawn[top : top + height, left : left + width] * 255).astype("uint8"))
    assert psnr(np.asarray(window.resize((64, 48), Image.Resampling.BOX)) / 255, seen) > 28

    page.wait_for_function(DRAFT, arg=repr(view["position"][0]))
    editor.reload()
    editor.look()
    editor.viewer().wait_for_function("document.getElementById('marks').children.length === 2")
    assert editor.prompt()["view"]["path"] == view["path"]


def temporary_images(server, entries: list) -> list:
    folder = server.base / "temp"
    return [pixels((folder / e["subfolder"] / e["filename"]).read_bytes()) for e in entries]


def test_a_dropped_workflow_shows_its_scene_and_keeps_where_one_looks_from(editor):
    page = editor.page
    editor.drop(WORKFLOW.read_text(encoding="utf-8"), WORKFLOW.name)
    editor.look()
    editor.keep("before")
    assert editor.prompt()["view"] is None
    editor.queue()
    viewer = editor.viewer()
    editor.look()
    editor.keep("queued")
    assert editor.state() is None  # nobody has touched it
    first = image(viewer)
    assert first.std() > 0.02

    # Scrub, by a click into the middle of the timeline.
    slider = viewer.locator("#time")
    slider.click()
    viewer.wait_for_function("fourreal.state.shown > 0 && fourreal.idle()")
    scrubbed = image(viewer)
    assert psnr(first, scrubbed) < 40
    time = editor.state()["time"]
    assert time == viewer.evaluate("fourreal.state.time") > 0

    # Orbit, by dragging over the canvas.
    drag(page, viewer, 90, 30)
    turned = image(viewer)
    editor.keep("orbit")
    assert psnr(scrubbed, turned) < 40
    kept = editor.state()
    assert kept["view"] == -1 and kept["time"] == time
    seen = kept["camera"] | {"time": time, "view": -1, "path": kept.get("path", [])}
    assert editor.prompt()["view"] == seen | {"owner": editor.prompt()["view"]["owner"]}

    # The workflow's own file has it, and so has the editor after a reload.
    saved = page.evaluate("() => app.graph.serialize()")
    (node,) = (n for n in saved["nodes"] if n["type"] == "FourReal_Preview4D")
    assert node["properties"]["Viewer state"] == kept and not node.get("widgets_values")
    page.wait_for_function(DRAFT, arg=repr(kept["camera"]["position"][0]))
    editor.reload()
    editor.look()
    viewer = editor.viewer()
    viewer.wait_for_function(f"fourreal.state.shown === {time} && fourreal.idle()")
    assert editor.state() == kept
    again = image(viewer)
    editor.keep("reloaded")
    assert again.shape == turned.shape and psnr(again, turned) > 40

    # Queued again, only the camera has changed: the same files are shown, and go on being shown.
    scene = editor.scene()
    editor.queue()
    assert editor.scene() == scene
    assert psnr(image(viewer), turned) > 40
