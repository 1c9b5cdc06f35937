"""Attention over a grid of frames: the fused view-time attention and its backends, a file each."""

from fourreal.attention.fused import BACKENDS, choose_backend, unavailable, view_time_attention
from fourreal.attention.layouts import view_time_mask, view_time_positions
from fourreal.attention.single_axis import time_attention, view_attention

__all__ = [
    "BACKENDS",
    "choose_backend",
    "time_attention",
    "unavailable",
    "view_attention",
    "view_time_attention",
    "view_time_mask",
    "view_time_positions",
]
