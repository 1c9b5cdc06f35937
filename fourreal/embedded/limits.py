"""The grids that the embedded video model was made for."""

VIEWS, FRAMES, SIZE = 8, 29, 64  # as many views and frames at most, of SIZE x SIZE pixels


def size_warning(num_views: int, num_frames: int, height: int, width: int) -> str | None:
    """What to tell of a grid that the embedded video model was not made for, or None."""
    if num_views <= VIEWS and num_frames <= FRAMES and (height, width) == (SIZE, SIZE):
        return None
    return (
        f"the embedded video model was made for up to {VIEWS} views x {FRAMES} frames of {SIZE} x "
        f"{SIZE} pixels, not for {num_views} x {num_frames} of {width} x {height}: expect a worse "
        "grid."
    )
