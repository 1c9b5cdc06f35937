"""ComfyUI's editor in headless Chromium, with Preview 4D in it."""

import base64
import json
import urllib.request
from pathlib import Path

import numpy as np

from .. import screenshots
from ..comfyui import SMALLER
from ..tiny import pixels

NODE = "app.graph.nodes.find((node) => node.type === 'FourReal_Preview4D')"
SHOWN = "app.extensionManager.workflow.activeWorkflow?.filename"  # of the tab in front
FRAME = "iframe[title='4D viewer']"
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

# The editor covers itself while a workflow loads, and on a slow machine its mask may stay for ever.
MASK = ".p-blockui-mask-document { display: none !important; }"

# Resolves once nothing of the frame's place has changed over ten images of the editor.
STILL = f"""async () => {{
  const place = () => JSON.stringify(document.querySelector("{FRAME}")?.getBoundingClientRect());
  for (let before = place(), still = 0; still < 10; still = before === place() ? still + 1 : 0) {{
    before = place();
    await new Promise(requestAnimationFrame);
  }}
}}"""

# The editor keeps drafts of what has changed, as JSON.
DRAFT = """(number) => [localStorage, sessionStorage].some((storage) =>
  Object.values(storage).some((text) => text.includes(number)))"""


def editor_page(browser, server, vue_nodes: bool, size: tuple[int, int], **settings):
    """A page of `size` pixels, for the editor to be opened in, which draws nodes in one of its two
    ways. settings: more of the editor's own; its tour and its news are not shown."""
    asked = {"Comfy.TutorialCompleted": True, "Comfy.Release.Status": "skipped"} | settings
    body = json.dumps(asked | {"Comfy.VueNodes.Enabled": vue_nodes}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/settings", body)).close()
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(120_000)
    return page


def drag(page, frame, right: int, down: int):
    """Drag from the middle of the viewer's canvas by so many pixels."""
    box = frame.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y + down, steps=4)
    page.mouse.up()


class Editor:
    """ComfyUI's editor in a browser, with one of its two ways of drawing nodes."""

    def __init__(self, browser, server, vue_nodes: bool):
        self.server, self.errors = server, []
        settings = {"Comfy.VueNodes.AutoScaleLayout": False}
        self.page = editor_page(browser, server, vue_nodes, (1400, 1000), **settings)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self.hear)
        self.page.goto(server.url)
        self.page.wait_for_function(f"window.app?.graph && app.extensionManager && {SHOWN}")
        self.name = "vue" if vue_nodes else "classic"

    def hear(self, message):
        """Keep what the console has of this pack's."""
        place = message.location.get("url", "")
        if message.type == "error" and ("4real" in place or "fourreal" in place):
            self.errors.append(f"{place}: {message.text}")

    def drop(self, text: str, name: str):
        """Drop a workflow's file on the editor, which opens a tab for it, and lower its sizes."""
        self.page.evaluate(DROP, [text, name])
        self.page.wait_for_function(
            f"(title) => ({SHOWN}) === title && {NODE}", arg=Path(name).stem
        )
        self.page.evaluate(LOWER, SMALLER)

    def reload(self):
        self.page.reload()
        self.page.wait_for_function(f"window.app?.graph && {NODE}")

    def tab(self, name: str):
        """Go to the tab of a workflow."""
        self.page.locator(".workflow-tabs .workflow-label", has_text=name).dispatch_event("click")
        self.page.wait_for_function(f"(title) => ({SHOWN}) === title", arg=name)

    def look(self):
        """Bring the node into view at its own size, with nothing before it."""
        self.page.add_style_tag(content=MASK)
        self.page.evaluate(
            f"() => {{ const node = {NODE}; app.canvas.ds.scale = 1; app.canvas.centerOnNode(node);"
            "app.canvas.setDirty(true, true); }"
        )
        self.page.evaluate(STILL)

    def queue(self, wait: bool = True):
        """Queue the workflow by the keyboard, and wait for its end."""
        done = len(self.server.ask("/history"))
        self.page.keyboard.press("Control+Enter")
        if wait:
            self.server.wait_for(lambda: len(self.server.ask("/history")) > done, 300)

    def viewer(self):
        """The frame with the viewer, once it has drawn."""
        element = self.page.wait_for_selector(FRAME, state="visible")
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
