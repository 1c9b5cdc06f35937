"""Training clips on disk: what a folder holds, whether it can be read, and its pixels.

Three kinds. **multiview**: folders of synchronised clips of still cameras; SynCamVideo's and
Kubric-4D's folders are known and put in the order of their arc; NVIDIA Dynamic's hold a folder of
images per time, and a view is the pattern of its files (mv_images/*/cam01.jpg); MV-Video's
(animated Objaverse) have their captions in one file. **static**: folders of photos of something
that stands still. **video**: ordinary videos. A folder may hold a metadata.jsonl with a line
{"path": ..., "caption": ..., "views": [...]} per clip (views is optional); without it every clip
below the folder is taken, its caption from a .txt file of the same name beside it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fourreal.bars import bar
from fourreal.data.kubric import COLOR_FILES, kubric_arc
from fourreal.files.json_files import JsonValue, parse_json, read_json
from fourreal.files.media import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    VideoMeasures,
    image_files,
    is_one_rate,
    measure_video,
    media_files,
    read_image,
    read_video,
    subfolders,
)
from fourreal.files.text_files import read_text, text_lines

Kind = Literal["multiview", "static", "video"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Clip:
    """One clip: its views in order, each a video, a folder of frames or (static) a photo."""

    kind: Kind
    path: Path
    views: tuple[Path, ...]
    caption: str
    num_frames: int  # of each view; 1 of photos


def _along_azimuth(positions: Tensor) -> list[int]:
    """Order of cameras [N, 3] (z up) around their mean, from one side of the widest gap to the
    other."""
    offsets = positions - positions.mean(0)
    angles = torch.atan2(offsets[:, 1], offsets[:, 0])
    order = angles.argsort()
    gaps = (angles[order] - angles[order].roll(1)).remainder(2 * torch.pi)
    return order.roll(-int(gaps.argmax())).tolist()


def _syncam_views(scene: Path) -> list[Path]:
    """SynCamVideo: videos/cam01.mp4 and, as text, camera-to-world matrices with the position in
    the last row."""
    cameras = read_json(scene / "cameras" / "camera_extrinsics.json").get("frame0").items()
    views = [v for v in media_files(scene / "videos", VIDEO_SUFFIXES) if v.stem in cameras]
    positions = [_syncam_position(cameras[v.stem]) for v in views]
    return [views[i] for i in _along_azimuth(torch.tensor(positions))] if views else []


def _syncam_position(camera: JsonValue) -> list[float]:
    """The position in a camera-to-world matrix that is written as "[. . . 0] ... [x y z 1]"."""
    try:
        rows = camera.string().replace("[", " ").replace("]", " ").split()
        values = [float(number) for number in rows]
    except ValueError:
        camera.wrong("a matrix of 16 numbers as text")
    if len(values) != 16 or not all(abs(value) < 1e12 for value in values):
        camera.wrong("a matrix of 16 finite numbers as text")
    return values[-4:-1]


def list_views(kind: Kind, folder: Path) -> list[Path]:
    """The views of the clip that lies in a folder, in order along their arc; [] when none does."""
    if kind == "video":
        return []
    if kind == "static":
        return image_files(folder) if media_files(folder, IMAGE_SUFFIXES) else []
    if (folder / "cameras" / "camera_extrinsics.json").is_file():
        return _syncam_views(folder)
    if (folder / "mv_images").is_dir():
        times = subfolders(folder / "mv_images")
        first = image_files(times[0]) if times else []
        return [folder / "mv_images" / "*" / p.name for p in first]
    return kubric_arc(folder) or media_files(folder, VIDEO_SUFFIXES)


@dataclass(frozen=True)
class _Entry:
    """A clip before it is checked: its path, and what a metadata.jsonl says of it."""

    path: Path
    caption: str | None = None
    views: tuple[Path, ...] | None = None


def _listed_entry(line: JsonValue, root: Path) -> _Entry:
    path, caption, views = line.get("path").path_in(root), line.find("caption"), line.find("views")
    return _Entry(
        path,
        caption.string() if caption else None,
        tuple(view.path_in(path) for view in views.entries()) if views else None,
    )


def _listed(file: Path, problems: list[str]) -> list[_Entry]:
    """The lines of a metadata.jsonl. What is wrong with others is added to `problems`."""
    entries = []
    for number, text in enumerate(text_lines(read_text(file)), 1):
        if not text.strip():
            continue
        try:
            entries.append(_listed_entry(parse_json(text, file, number), file.parent))
        except ValueError as error:
            problems.append(str(error).rstrip("."))
    if not entries and not problems:
        problems.append(f"{file} lists no clips")
    return entries


def _is_clip(kind: Kind, folder: Path) -> bool:
    """Whether views of a clip lie in a folder, also ones of which one cannot be read."""
    try:
        return bool(list_views(kind, folder))
    except ValueError:
        return True  # said by whoever reads it


def _discovered(kind: Kind, root: Path, problems: list[str]) -> list[_Entry]:
    """Every clip below a folder."""
    if root.is_file():
        return [_Entry(root)]
    if kind == "video":
        found = [_Entry(p) for p in media_files(root, VIDEO_SUFFIXES, "**/*")]
    elif _is_clip(kind, root):
        return [_Entry(root)]
    else:
        folders = subfolders(root)
        found = [e for folder in folders for e in _below(kind, folder, problems)]
        if folders:
            return found
    if not found:
        problems.append(f"{root} holds no {'photos' if kind == 'static' else 'videos'}")
    return found


def _below(kind: Kind, folder: Path, problems: list[str]) -> list[_Entry]:
    """Every clip below one of several folders, whose bad files are problems of its own."""
    try:
        return _discovered(kind, folder, problems)
    except ValueError as error:
        problems.append(str(error).rstrip("."))
        return []


def _caption(entry: _Entry) -> str | None:
    """The caption of a clip, listed, beside it or MV-Video's. Raises ValueError naming a bad
    file."""
    if entry.caption is not None:
        return entry.caption
    path = entry.path
    beside = path.parent / f"{path.stem if path.is_file() else path.name}.txt"
    if beside.is_file():
        text = read_text(beside).strip()
        if not text:
            raise ValueError(f"{beside} is empty; write the caption of the clip into it.")
        return text
    return _mv_video_caption(path)


def _mv_video_caption(clip: Path) -> str | None:
    """MV-Video (animated Objaverse): clips videos/UID/00, captions in uid_info_dict.json above."""
    for folder in clip.absolute().parents[1:3]:
        if (listed := folder / "uid_info_dict.json").is_file():
            entry: JsonValue | None = _read_captions(listed, listed.stat().st_mtime_ns)
            for key in (clip.parent.name, "anim", clip.name, "text_prompt"):
                entry = entry.find(key) if entry else None
            return entry.string() if entry else None
    return None


@lru_cache(maxsize=4)
def _read_captions(path: Path, changed: int) -> JsonValue:
    """The content of a uid_info_dict.json, read once for all clips until it has `changed`."""
    return read_json(path)


def path_of_view(view: Path) -> Path:
    """The file or folder on disk that holds a view: itself, or what is before a pattern's `*`."""
    return view.parent.parent if view.parent.name == "*" else view


def frame_files(folder: Path) -> list[Path]:
    """The frames of a view that is kept as images, in a folder (of Kubric's the colour images only)
    or, with the folder `*`, in one folder per time."""
    if folder.parent.name == "*":
        files = [time / folder.name for time in subfolders(path_of_view(folder))]
        return [file for file in files if file.is_file()]
    return image_files(folder, COLOR_FILES) or image_files(folder)


def size_of_view(view: Path) -> tuple[int, int, int]:
    """(frames, height, width) of a video, a folder of frames or a photo.

    Of a video every frame is decoded, of a folder the first image. Raises ValueError naming the
    file when that cannot be done.
    """
    if not path_of_view(view).exists():
        raise ValueError(f"{view} does not exist")
    folder = path_of_view(view).is_dir()
    if folder or view.suffix.lower() in IMAGE_SUFFIXES:
        images = frame_files(view) if folder else [view]
        if not images:
            raise ValueError(f"{view} holds no images")
        return len(images), *read_image(images[0]).shape[-2:]
    measures = _measured(view, view.stat().st_mtime_ns)
    return measures.num_frames, measures.height, measures.width


@lru_cache(maxsize=64)
def _measured(video: Path, changed: int) -> VideoMeasures:
    """The measures of a video, decoded once for its size and its rate until it has `changed`."""
    return measure_video(video)


def rate_of_view(view: Path) -> float | None:
    """Frames per second of a video, None of a folder of frames or a photo."""
    if path_of_view(view).is_dir() or view.suffix.lower() in IMAGE_SUFFIXES:
        return None
    return _measured(view, view.stat().st_mtime_ns).rate


def _check(
    kind: Kind, path: Path, views: list[Path], caption: str, num_views: int, num_frames: int
) -> Clip:
    """The clip. Raises ValueError, naming the file, when it cannot be used."""
    needed = 1 if kind == "video" else num_views
    if len(views) < needed:
        raise ValueError(f"{path} has {len(views)} views, but {needed} are needed")
    sizes, rates = zip(*((size_of_view(view), rate_of_view(view)) for view in views))
    for view, size, rate in zip(views, sizes, rates):
        if size != sizes[0]:
            raise ValueError(
                f"{view} has {size[0]} frames of {size[1]} x {size[2]}, but {views[0].name} has "
                f"{sizes[0][0]} of {sizes[0][1]} x {sizes[0][2]}"
            )
        if rate and rates[0] and not is_one_rate(rates[0], rate, num_frames):
            raise ValueError(
                f"{view} has {rate:.5g} frames per second, but {views[0].name} has {rates[0]:.5g}"
            )
    if kind != "static" and sizes[0][0] < num_frames:
        raise ValueError(f"{views[0]} has {sizes[0][0]} frames, but {num_frames} are needed")
    return Clip(kind, path, tuple(views), caption, sizes[0][0])


def find_clips(
    kind: Kind, root: Path, num_views: int, num_frames: int, caption: str | None = None
) -> tuple[list[Clip], list[str]]:
    """(usable clips, problems) of a folder, or of one video or clip folder.

    A clip needs num_views views of one size and num_frames frames each, all decodable, and a
    caption (`caption` where it has none of its own). A problem is half a sentence that names the
    file.
    """
    root = Path(root)
    problems: list[str] = []
    if not root.exists():
        return [], [f"{root} does not exist"]
    listed = root / "metadata.jsonl"
    try:
        known = root.is_dir() and listed.is_file()
        entries = _listed(listed, problems) if known else _discovered(kind, root, problems)
    except ValueError as error:
        return [], [str(error).rstrip(".")]

    def check(entry: _Entry) -> Clip | str:
        path = entry.path
        try:
            if not path.exists():
                return f"{path} does not exist"
            text = _caption(entry) or caption
            if text is None:
                return f"{path} has no caption"
            if entry.views is not None:
                views = list(entry.views)
            else:
                views = [path] if path.is_file() else list_views(kind, path)
            return _check(kind, path, views, text, num_views, num_frames)
        except ValueError as error:
            return str(error).rstrip(".")
        except OSError as error:  # a name that no file can have, a folder that is not to be read
            return f"{path} cannot be read: {error.strerror}"

    with ThreadPoolExecutor() as pool:
        found = pool.map(check, entries)
        checked = list(
            bar(found, name=f"checking {root}", total=len(entries), disable=len(entries) < 50)
        )
    # One bad file of captions is a problem of all its clips.
    problems += dict.fromkeys(c for c in checked if isinstance(c, str))
    return [c for c in checked if isinstance(c, Clip)], problems


def read_window(view: Path, start: int, count: int, fit: tuple[int, int] | None = None) -> Tensor:
    """Frames start to start + count of a video or folder of frames, [count, 3, H, W] in [0, 1].

    fit: (height, width) in pixels to resize and crop each to as it is read. Raises ValueError
    naming the file when it ends early.
    """
    if path_of_view(view).is_dir():
        images = [read_image(p, fit) for p in frame_files(view)[start : start + count]]
        frames = torch.stack(images) if images else torch.empty(0)
    else:
        frames, _ = read_video(view, count, start, fit=fit)
    if len(frames) < count:
        raise ValueError(f"{view} ends at frame {start + len(frames)}; {start + count} are needed.")
    return frames
