"""Rasterizers for Gaussians, rendering along camera paths, and video files."""

from fourreal.rendering.path import render_path
from fourreal.rendering.rasterize import Rendering, available_backends, render

__all__ = ["Rendering", "available_backends", "render", "render_path"]
