"""Rasterizers for Gaussians, and rendering along camera paths."""

from fourreal.rendering.path import render_path, scene_path
from fourreal.rendering.rasterize import Rendering, available_backends, render

__all__ = ["Rendering", "available_backends", "render", "render_path", "scene_path"]
