"""Small videos for the tests of what reads them."""

import torch

from fourreal.files.media import write_video


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grey_video(path, level=0.5, frames=5, height=16, width=24):
    """A video of one grey that becomes brighter by 0.02 a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = level + 0.02 * torch.arange(frames).view(-1, 1, 1, 1)
    write_video(path, levels.expand(-1, 3, height, width), 8)
    return path


def multiview(folder, views=3, **options):
    for v in range(views):
        grey_video(folder / f"cam{v}.mp4", 0.2 + 0.2 * v, **options)


def write_bad_clips(folder):
    """One good clip of three views and five frames, and others; what is wrong with those."""
    multiview(folder / "good")
    multiview(folder / "short")
    grey_video(folder / "short" / "cam1.mp4", frames=4)
    multiview(folder / "small")
    grey_video(folder / "small" / "cam2.mp4", width=16)
    multiview(folder / "broken")
    (folder / "broken" / "cam0.mp4").write_bytes(b"this is no video")
    multiview(folder / "few", views=1)
    multiview(folder / "silent")
    (folder / "empty").mkdir()
    for name in ("good", "short", "small", "broken", "few", "empty"):
        (folder / f"{name}.txt").write_text(name)
    return {
        "short/cam1.mp4 has 4 frames of 16 x 24, but cam0.mp4 has 5 of 16 x 24",
        "small/cam2.mp4 has 5 frames of 16 x 16, but cam0.mp4 has 5 of 16 x 24",
        "broken/cam0.mp4 cannot be decoded as video",
        "few has 1 views, but 3 are needed",
        "silent has no caption",
        "empty holds no videos",
    }
