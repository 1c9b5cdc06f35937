"""Longer videos than a model was made for: windows over time, each begun by the last one's end.

A window is generated like any grid. Its first columns are references: the last frames of the window
before it, encoded anew, which works because the autoencoder's first latent frame is one pixel frame
whatever came before. Memory is that of one window.
"""


def time_windows(num_frames: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Windows (start, stop) of about equal length that cover num_frames latent frames.

    None is longer than `window`; each begins `overlap` latent frames before the end of the last.
    Pixel frames of a window are 4 start to 4 (stop - 1), both included.
    """
    if num_frames <= window:
        return [(0, num_frames)]
    new = num_frames - overlap
    count = -(-new // (window - overlap))
    stops = [overlap + new * (i + 1) // count for i in range(count)]
    return [(stop - overlap, end) for stop, end in zip([overlap, *stops], stops)]
