"""Makes the pictures of templates that end in a grid: what their graphs give, four views and times.

    COMFYUI_PATH=FOLDER python -m tests.nodes.make_pictures [TEMPLATE ...]
    COMFYUI_PATH=FOLDER python -m tests.nodes.make_pictures graph

The second one makes the README's picture of the graph Text to 4D after a run.

The graphs run on a real server with the embedded models. Video to 4D with Wan VACE runs with
the embedded VACE and reconstructor in place of its loaders, at the 64 pixels that these know, for
want of the public weights. The embedded VACE only fills gaps between known pixels, so for text and
photos with Wan stand the small templates of these names.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from fourreal import weights
from fourreal.files.images import read_image, write_image
from fourreal.grid import GAP, contact_sheet, spaced_times

from ..comfyui import ROOT, WORKFLOWS, Server, to_api
from ..conftest import FLAGS, chromium
from ..templates import TemplateEditor
from .editor import FRAME

SHOWN = 4  # views and times
CELL, LARGE = 64, 96  # pixels of a frame
LOADERS = {  # the outputs of Load Embedded Models in their place
    "UNETLoader": 0,
    "ModelSamplingSD3": 0,
    "CLIPLoader": 1,
    "VAELoader": 2,
    "FourReal_LoadReconstructor": 3,
}
STANDS_FOR = {f"{name} to 4D": f"{name} to 4D with Wan VACE" for name in ("Text", "Photos")}
WINDOW = {"width": 2000, "height": 1500}  # pixels, for the picture of a graph
VIEWER_SETTLES = 5000  # milliseconds, until a scene is loaded, sorted and drawn
# Corners in the graph's units as pixels of the page, a few beyond them.
TO_PAGE = """([left, top, right, bottom]) => {
  const { scale, offset } = app.canvas.ds;
  const { x, y } = app.canvas.canvas.getBoundingClientRect();
  const page = (gx, gy, more) => [
    x + (gx + offset[0]) * scale + more,
    y + (gy + offset[1]) * scale + more,
  ];
  return [...page(left, top, -8), ...page(right, bottom, 8)];
}"""
GENERATED = ("VAEDecode", "FourReal_PasteKnown", "FourReal_CarryReferences")
SUITED = {  # widgets' values that suit the embedded models
    "FourReal_ExampleScene": {"width": CELL, "height": CELL},
    "FourReal_TextEncode": {"negative": ""},
    "FourReal_PasteKnown": {"feather": 3, "match_sharpness": False},
    "FourReal_Reconstruct": {"confidence_percentile": 0.0},
}


def with_embedded_models(prompt: dict) -> dict:
    """A prompt with public files as one without them; others are given back as they are."""
    kinds = {key: node["class_type"] for key, node in prompt.items()}
    if "UNETLoader" not in kinds.values():
        return prompt
    changed = {
        "embedded": {"class_type": "FourReal_LoadEmbeddedModels", "inputs": {"video_model": "VACE"}}
    }
    for key, node in prompt.items():
        if kinds[key] in LOADERS:
            continue
        inputs = dict(node["inputs"])
        for name, given in inputs.items():
            if isinstance(given, list) and kinds[given[0]] in LOADERS:
                inputs[name] = ["embedded", LOADERS[kinds[given[0]]]]
        changed[key] = node | {"inputs": inputs | SUITED.get(kinds[key], {})}
    return changed


def grid_pictures(prompt: dict) -> list[str]:
    """The nodes that show the contact sheet of a generated grid."""
    return [
        key
        for key, node in prompt.items()
        if node["class_type"] == "PreviewImage"
        and (sheet := prompt[node["inputs"]["images"][0]])["class_type"] == "FourReal_ContactSheet"
        and prompt[sheet["inputs"]["images"][0]]["class_type"] in GENERATED
    ]


def picture(sheet: torch.Tensor) -> torch.Tensor:
    """Of a contact sheet [3, h, w] the first, the last and two views and times between."""
    rows, columns = (spaced_times(SHOWN, (size + GAP) // (CELL + GAP)) for size in sheet.shape[1:])
    cells = torch.stack(
        [
            sheet[:, y * (CELL + GAP) :, x * (CELL + GAP) :][:, :CELL, :CELL]
            for y in rows
            for x in columns
        ]
    )
    large = torch.nn.functional.interpolate(cells, (LARGE, LARGE), mode="bicubic").clamp(0, 1)
    return contact_sheet(large.unflatten(0, (len(rows), len(columns))))


def make(path: Path, server: Server, info: dict) -> None:
    """Write the picture of one template beside it, if it shows a generated grid."""
    if path.stem in STANDS_FOR.values():
        return
    workflow = json.loads(path.read_text(encoding="utf-8"))
    prompt = with_embedded_models(to_api(workflow, info))
    for shown in grid_pictures(prompt)[:1]:
        (saved,) = server.run(prompt)[shown]["images"]
        sheet = read_image(server.base / "temp" / saved["subfolder"] / saved["filename"])
        for name in (path.stem, STANDS_FOR.get(path.stem, path.stem)):
            write_image(path.with_name(f"{name}.jpg"), picture(sheet))
        print(f"{path.stem}: {tuple(sheet.shape)}", flush=True)


def show_graph(server: Server, out: Path, template: str = "Text to 4D") -> None:
    """Write a picture of a template's graph after a run, its scene in the viewer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        editor = TemplateEditor(browser, server, True)
        page = editor.page
        page.set_viewport_size(WINDOW)
        editor.open(template)
        _, seconds = editor.run()
        page.frame_locator(FRAME).locator("#canvas").wait_for()
        page.wait_for_timeout(VIEWER_SETTLES)
        page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        layout = editor.settled()
        left, top, right, bottom = page.evaluate(TO_PAGE, hull(layout.groups.values()))
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        with Image.open(io.BytesIO(page.screenshot(clip=clip))) as shown:
            shown.convert("RGB").save(out, quality=80, method=6)
        browser.close()
    print(f"{out}: {template}, run in {seconds:.0f} s", flush=True)


def hull(boxes) -> list[float]:
    """The corners left, top, right, bottom of what boxes (x, y, width, height) cover."""
    left, top = (min(box[i] for box in boxes) for i in (0, 1))
    right, bottom = (max(box[i] + box[i + 2] for box in boxes) for i in (0, 1))
    return [left, top, right, bottom]


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "base", weights.folder())
        try:
            info = server.wait_for(lambda: server.ask("/object_info"), 300)
            if names == ["graph"]:
                show_graph(server, ROOT / "docs" / "graph.webp")
                return
            for path in WORKFLOWS:
                if not names or path.stem in names:
                    make(path, server, info)
        finally:
            server.process.terminate()
            server.process.wait(30)


if __name__ == "__main__":
    main(sys.argv[1:])
