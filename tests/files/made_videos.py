"""Videos as other programs write them, made with PyAV."""

from fractions import Fraction

import av
import numpy as np

COLOURS = ((0, 0, 220), (0, 220, 0), (220, 0, 0), (220, 220, 0))  # of the four quarters


def quarters(height=48, width=64):
    """An image [H, W, 3] whose quarters have COLOURS: blue, green (above), red, yellow (below)."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = COLOURS[:2]
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = COLOURS[2:]
    return image


def grey(level, height=48, width=64):
    return np.full((height, width, 3), level, np.uint8)


def make_video(path, images, rate=8, times=None, codec="libx264", pix_fmt="yuv420p", prepare=None):
    """Encode images [H, W, 3] of bytes (or VideoFrames), shown at `times` (in frames of `rate`).
    prepare: called with the stream before it is opened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream(codec, rate=rate)
        height, width = images[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = Fraction(1, rate)
        if codec == "libx264":
            stream.options = {"crf": "4", "preset": "ultrafast"}
        if prepare is not None:
            prepare(stream)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
