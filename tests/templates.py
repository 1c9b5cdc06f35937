"""Templates in the real editor: where their nodes lie, before and after a run.

Nodes grow with pictures that arrive while they work and with videos that are done, and the
two renderers (LiteGraph's canvas, and Nodes 2.0) give one node different sizes. So boxes are
measured in the browser, in the graph's own units. A layout is sound if no two nodes overlap, no two
groups overlap, and every node, a note too, lies wholly in one group, below its title.
"""

import time
from dataclasses import dataclass
from itertools import combinations

from . import screenshots
from .nodes.editor import editor_page

GROUP_TITLE = 34  # of a group's box, in the graph's units
ROUNDING = 1.0  # two boxes that share an edge may overlap by this
STILL = 1.5  # seconds without a change until the editor has settled

OPEN = """async ([pack, name]) => {
  const file = `/api/workflow_templates/${pack}/${encodeURIComponent(name)}.json`;
  await app.loadGraphData(await (await fetch(file)).json(), true, true, name);
}"""

RESEED = """() => {
  for (const widget of app.graph.nodes.flatMap((node) => node.widgets ?? []))
    if (widget.name === "seed") widget.value += 1;
}"""

# Nodes 2.0 draws a node as an element of the page, whose size in the graph is the unscaled one.
MEASURE = """() => {
  const box = (node) => {
    if (!LiteGraph.vueNodesMode) {
      node.updateArea?.(app.canvas.ctx);
      return [...node.boundingRect];
    }
    const { offsetWidth, offsetHeight } = document.querySelector(`[data-node-id="${node.id}"]`);
    return [node.pos[0], node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT, offsetWidth, offsetHeight];
  };
  return {
    nodes: Object.fromEntries(app.graph.nodes.map((n) => [`${n.id} ${n.title}`, box(n)])),
    groups: Object.fromEntries(app.graph.groups.map((g) => [g.title, [...g.boundingRect]])),
  };
}"""

# Nodes that the editor frames in red, and its list of what is missing.
RED = """() => [
  ...app.graph.nodes.filter((node) => node.has_errors).map((node) => node.title),
  ...[...document.querySelectorAll("[data-testid=error-overlay-messages]")].map((e) => e.innerText),
]"""


@dataclass
class Layout:
    """Boxes (x, y, width, height) by name; a node's box includes its title."""

    nodes: dict[str, list[float]]
    groups: dict[str, list[float]]

    def faults(self) -> list[str]:
        """What is wrong with it, one line each."""
        found = [
            f"{a} and {b} overlap"
            for boxes in (self.nodes, self.groups)
            for a, b in combinations(boxes, 2)
            if overlap(boxes[a], boxes[b])
        ]
        insides = [(x, y + GROUP_TITLE, w, h - GROUP_TITLE) for x, y, w, h in self.groups.values()]
        return found + [
            f"{name} is not inside a group"
            for name, box in self.nodes.items()
            if not any(inside(box, group) for group in insides)
        ]


def overlap(a, b) -> bool:
    """Whether two boxes share more than an edge."""
    return all(min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) > ROUNDING for i in (0, 1))


def inside(box, group) -> bool:
    return all(
        box[i] >= group[i] - ROUNDING and box[i] + box[i + 2] <= group[i] + group[i + 2] + ROUNDING
        for i in (0, 1)
    )


def saved_layout(workflow: dict) -> Layout:
    """The layout that a workflow's file has: nodes before a run, as LiteGraph draws them."""
    title = 30  # above the position of a node
    return Layout(
        {
            f"{n['id']} {n['type']}": [
                n["pos"][0],
                n["pos"][1] - title,
                n["size"][0],
                n["size"][1] + title,
            ]
            for n in workflow["nodes"]
        },
        {group["title"]: group["bounding"] for group in workflow["groups"]},
    )


class TemplateEditor:
    """ComfyUI's editor in a browser, as a user finds it, with one of its two renderers."""

    def __init__(self, browser, server, vue_nodes: bool):
        self.server, self.errors = server, []
        self.name = "vue" if vue_nodes else "classic"
        settings = {"Comfy.Minimap.Visible": False}
        self.page = editor_page(browser, server, vue_nodes, (1900, 1000), **settings)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server.url)
        self.page.wait_for_function("window.app?.graph && app.extensionManager?.workflow")

    def open(self, name: str) -> Layout:
        """A template of the pack, whole in the window, and its layout."""
        self.page.evaluate(OPEN, [self.server.pack.name, name])
        self.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        return self.settled()

    def settled(self) -> Layout:
        """The layout, once it has stopped to change."""
        before, since = None, time.monotonic()
        while time.monotonic() - since < STILL:
            measured = self.page.evaluate(MEASURE)
            if measured != before:
                before, since = measured, time.monotonic()
            self.page.wait_for_timeout(100)
        return Layout(**before)

    def run(self, seconds: float = 600) -> tuple[Layout, float]:
        """Queue what is open. Its layout when all is shown, and the seconds it took the server."""
        done = set(self.server.ask("/history"))
        start = time.monotonic()
        self.page.keyboard.press("Control+Enter")
        self.server.wait_for(lambda: self.server.ask("/history").keys() - done, seconds)
        taken = time.monotonic() - start
        (name,) = self.server.ask("/history").keys() - done
        status = self.server.ask(f"/history/{name}")[name]["status"]
        assert status["status_str"] == "success", status["messages"]
        return self.settled(), taken

    def keep(self, name: str):
        """Leave a screenshot for people to look at, if they ask for it."""
        screenshots.keep(self.page, f"template_{name}_{self.name}")
