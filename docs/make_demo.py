"""Write docs/demo.html, the scene that the site shows live.

    python docs/make_demo.py

Six still cameras film a procedural scene that no model was trained on; the embedded reconstructor
makes Gaussians of their videos alone, on a CPU. The scene is one that it does well. Every fourth
frame is taken, and Gaussians that are nearly transparent are left out, so that the page has eight
megabytes. Run it again when the viewer's page has changed.
"""

from dataclasses import replace
from pathlib import Path

import torch

from fourreal import weights
from fourreal.reconstruction import Reconstructor
from fourreal.scenes import FPS, make_scene, scene_seed
from fourreal.viewer import export_html

PAGE = Path(__file__).with_name("demo.html")
STEP = 4  # frames
FAINTEST = 0.05  # opacity


def main() -> None:
    filmed = make_scene(scene_seed("test", 14), num_views=6, height=128, width=128)
    frames = filmed.frames[:, ::STEP]
    reconstructor = Reconstructor.from_file(weights.folder() / "reconstructor.safetensors")
    with torch.no_grad():
        scene = reconstructor(frames, fps=FPS / STEP).scene
    static, *dynamic = (part[part.opacities > FAINTEST] for part in (scene.static, *scene.dynamic))
    export_html(replace(scene, static=static, dynamic=dynamic), PAGE, frames)
    print(f"{PAGE}: {filmed.caption}, {PAGE.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    main()
