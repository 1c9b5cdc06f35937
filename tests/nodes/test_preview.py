"""Preview 4D: its files and its camera, and the node in the real editor in headless Chromium."""

import base64
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from .. import screenshots
from ..comfyui import ROOT, SMALLER, needs_comfyui
from ..tiny import pixels, psnr

WORKFLOW = ROOT / "workflows" / "Text to 4D.json"
NODE = "app.graph.nodes.find((node) => node.type === 'FourReal_Preview4D')"
DROP = """([text, name]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([text], name, { type: "application/json" }));
  const canvas = document.getElementById("graph-canvas");
  canvas.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""

LOWER = """(smaller) => {
  for (const widget of app.graph.nodes.flatMap((node) => node.widgets ?? []))
    if (widget.name in smaller && widget.value > smaller[widget.name])
      widget.value = smaller[widget.name];
}"""

# Resolves once nothing of the frame's place has changed over ten images of the editor.
STILL = """async () => {
  const place = () =>
    JSON.stringify(document.querySelector("iframe[title='4D viewer']")?.getBoundingClientRect());
  for (let before = place(), still = 0; still < 10; still = before === place() ? still + 1 : 0) {
    before = place();
    await new Promise(requestAnimationFrame);
  }
}"""

# The editor keeps drafts of what has changed, as JSON.
DRAFT = """(number) => [localStorage, sessionStorage].some((storage) =>
  Object.values(storage).some((text) => text.includes(number)))"""


@pytest.fixture
def scene(nodes):
    """Something that stands and something that moves, seen by two cameras."""
    from fourreal.cameras import look_at, pixel_intrinsics
    from fourreal.gaussians import Gaussians

    def some(count: int) -> Gaussians:
        quaternions = torch.nn.functional.normalize(torch.randn(count, 4), dim=1)
        return Gaussians(
            torch.randn(count, 3) + torch.tensor([0.0, 0, 4]),
            quaternions,
            torch.rand(count, 3) / 9,
            torch.rand(count),
            torch.randn(count, 1, 3),
        )

    torch.manual_seed(0)
    eyes, up = torch.tensor([[0.0, 0, 0], [1.0, -0.5, 0.2]]), torch.tensor([0.0, -1, 0])
    return nodes.types.CachedScene(
        some(9),
        [some(3), some(2)],
        look_at(eyes, torch.tensor([0.1, 0, 4]), up),
        pixel_intrinsics(torch.full((2,), 0.9), 48, 64),
        64,
        48,
    )


def test_the_files_are_those_of_the_viewer_and_written_once(nodes, scene):
    import folder_paths

    from fourreal.viewer import scene_files

    preview = nodes.Preview4D
    out = preview.execute(scene)
    assert out.args[0] is scene
    (shown,) = out.ui["fourreal_scene"]
    assert (shown["type"], shown["filename"]) == ("temp", "scene.json")
    folder = Path(folder_paths.get_temp_directory()) / shown["subfolder"]
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        name: content() for name, content in scene_files(scene).items()
    }
    view = {"position": [1, 2, 3], "target": [0, 0, 0], "quaternion": [0, 0, 0, 1], "fov": 40.0}
    assert preview.execute(scene, view=view).ui == out.ui  # the viewer is not loaded again
    images = torch.rand(4, 48, 64, 3)
    with_images = preview.execute(scene, images).ui["fourreal_scene"][0]["subfolder"]
    assert (folder.parent / with_images / "1_1.jpg").is_file()
    with pytest.raises(ValueError, match="cannot be split into 2 views"):
        preview.execute(scene, images[:3])
    del images
    again = preview.execute(scene).ui["fourreal_scene"][0]["subfolder"]
    assert not (folder.parent / again / "1_1.jpg").exists()  # as none are connected now


def test_a_cancelled_preview_leaves_no_files(nodes, scene):
    import comfy.model_management as management
    import folder_paths

    preview = nodes.Preview4D
    temporary = Path(folder_paths.get_temp_directory())
    before = set(temporary.glob("4real_*"))
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        preview.execute(scene)
    assert set(temporary.glob("4real_*")) == before


def test_the_viewers_camera_comes_out_as_the_one_of_other_nodes(nodes, scene):
    for view in (0, 1):
        camera = nodes.SceneCamera.execute(scene, view).args[0]
        # As the page reports it: three.js's lists in place of ComfyUI's dicts.
        seen = {k: list(camera[k].values()) for k in ("position", "target", "quaternion")}
        again = nodes.Preview4D.execute(scene, view=seen | {"fov": camera["fov"]}).args[1]
        assert again == camera
    assert nodes.Preview4D.execute(scene).args[1] == nodes.SceneCamera.execute(scene, 0).args[0]


class Editor:
    """ComfyUI's editor in a browser, with one of its two ways of drawing nodes."""

    def __init__(self, browser, server, vue_nodes: bool):
        self.server, self.errors = server, []
        settings = {
            "Comfy.VueNodes.Enabled": vue_nodes,
            "Comfy.VueNodes.AutoScaleLayout": False,
            "Comfy.TutorialCompleted": True,
            "Comfy.Release.Status": "skipped",
        }
        body = json.dumps(settings).encode()
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/settings", body)).close()
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.page.set_default_timeout(120_000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server.url)
        self.page.wait_for_function("window.app?.graph && app.extensionManager?.workflow")
        self.name = "vue" if vue_nodes else "classic"

    def drop(self, path):
        """Drop a workflow's file on the editor, and lower its sizes."""
        self.page.evaluate(DROP, [path.read_text(encoding="utf-8"), path.name])
        self.page.wait_for_function(NODE)
        self.page.evaluate(LOWER, SMALLER)

    def look(self):
        """Bring the node into view at its own size."""
        self.page.evaluate(
            f"() => {{ const node = {NODE}; app.canvas.ds.scale = 1; app.canvas.centerOnNode(node);"
            "app.canvas.setDirty(true, true); }"
        )
        self.page.evaluate(STILL)

    def viewer(self):
        """The frame with the viewer, once it has drawn."""
        element = self.page.wait_for_selector("iframe[title='4D viewer']", state="visible")
        frame = element.content_frame()
        frame.wait_for_function("window.fourreal?.state.drawn > 0 && fourreal.idle()")
        return frame

    def state(self) -> dict:
        """What the node's properties keep of the viewer."""
        return self.page.evaluate(f"() => {NODE}.properties['Viewer state']")

    def prompt(self) -> dict:
        """The node as the next prompt would have it."""
        return self.page.evaluate(
            f"async () => (await app.graphToPrompt()).output[{NODE}.id].inputs"
        )

    def keep(self, name: str):
        """Leave a screenshot for people to look at, if they ask for it."""
        screenshots.keep(self.page, f"preview_{self.name}_{name}")


def image(frame) -> np.ndarray:
    """The viewer's canvas [H, W, 3] in [0, 1], drawn anew."""
    frame.evaluate("() => { fourreal.state.dirty = true; }")
    frame.wait_for_function("fourreal.idle()")
    url = frame.evaluate("document.getElementById('canvas').toDataURL()")
    return pixels(base64.b64decode(url.split(",")[1]))


@needs_comfyui
@pytest.mark.parametrize("vue_nodes", [False, True], ids=["classic", "vue"])
def test_a_dropped_workflow_shows_its_scene_and_keeps_where_one_looks_from(
    browser, server, info, vue_nodes
):
    editor = Editor(browser, server, vue_nodes)
    page = editor.page
    editor.drop(WORKFLOW)
    editor.look()
    editor.keep("before")
    assert editor.prompt()["view"] is None
    done = len(server.ask("/history"))
    page.keyboard.press("Control+Enter")
    server.wait_for(lambda: len(server.ask("/history")) > done, 300)
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
    box = viewer.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 30, steps=4)
    page.mouse.up()
    turned = image(viewer)
    editor.keep("orbit")
    assert psnr(scrubbed, turned) < 40
    kept = editor.state()
    assert kept["view"] == -1 and kept["time"] == time
    assert editor.prompt()["view"] == kept["camera"]

    # The workflow's own file has it, and so has the editor after a reload.
    saved = page.evaluate("() => app.graph.serialize()")
    (node,) = (n for n in saved["nodes"] if n["type"] == "FourReal_Preview4D")
    assert node["properties"]["Viewer state"] == kept and not node.get("widgets_values")
    page.wait_for_function(DRAFT, arg=repr(kept["camera"]["position"][0]))
    page.reload()
    page.wait_for_function(f"window.app?.graph && {NODE}")
    editor.look()
    viewer = editor.viewer()
    viewer.wait_for_function(f"fourreal.state.shown === {time} && fourreal.idle()")
    assert editor.state() == kept
    again = image(viewer)
    editor.keep("reloaded")
    assert again.shape == turned.shape and psnr(again, turned) > 40

    # Queued again, only the camera has changed: the same files are shown, and go on being shown.
    done = len(server.ask("/history"))
    scene = page.evaluate(f"() => {NODE}.properties['Viewer scene'].subfolder")
    page.keyboard.press("Control+Enter")
    server.wait_for(lambda: len(server.ask("/history")) > done, 300)
    assert page.evaluate(f"() => {NODE}.properties['Viewer scene'].subfolder") == scene
    assert psnr(image(viewer), turned) > 40
    assert editor.errors == []
    page.close()
