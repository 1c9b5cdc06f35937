"""The interactive 4D viewer: a page with three.js and Spark inside, served or as one HTML file.

The page is page.html. It is built from src/ (`npm ci && npm run build` there) and committed.
"""

from fourreal.viewer.export import export_html, pack_gaussians, scene_files
from fourreal.viewer.frames import read_frames
from fourreal.viewer.serve import serve

__all__ = ["export_html", "pack_gaussians", "read_frames", "scene_files", "serve"]
