"""4Real: text to explorable 4D scenes (a grid of video frames, then dynamic 3D Gaussians)."""

__version__ = "0.1.0"
