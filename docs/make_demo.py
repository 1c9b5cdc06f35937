"""Write docs/demo.html, the scene that the site shows live, from the demo's own scene.

    python tasks.py demo
    python docs/make_demo.py

Every second time is kept and Gaussians that are nearly transparent are left out, so that the page
has a few megabytes. Run it again when the viewer's page has changed.
"""

from dataclasses import replace
from pathlib import Path

from fourreal.formats import open_scene
from fourreal.viewer import export_html, read_frames

ROOT = Path(__file__).resolve().parents[1]
STEP, FAINTEST = 2, 0.3


def main() -> None:
    demo = ROOT / "out" / "demo"
    scene = open_scene(demo / "scene.safetensors")
    frames = read_frames(demo / "grid.mp4", scene.num_views, scene.num_frames)
    kept = [part[part.opacities > FAINTEST] for part in (scene.static, *scene.dynamic[::STEP])]
    small = replace(scene, static=kept[0], dynamic=kept[1:], fps=scene.fps / STEP)
    export_html(small, ROOT / "docs" / "demo.html", frames[:, ::STEP])


if __name__ == "__main__":
    main()
