"""Damage the small files of data sets, and see that each ends in a result or in one sentence.

    python -m tests.data.damaged_data --count 3000 --seed 7

runs so many mutations of each kind and prints what broke the promise: another exception than a
ValueError, a message of several lines or without a file's name, a caption that is no text, a camera
that is not finite, more than SECONDS. What broke it can be made again from its seed.
"""

import argparse
import json
import logging
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fourreal.commands.jobs import read_prompts
from fourreal.data.clips import find_clips
from fourreal.data.posed import find_posed_scenes
from fourreal.formats.keyframes import load_keyframes
from tests.data.clip_files import grey_video
from tests.data.photo_folders import CENTER, FOCAL, to_world, write_colmap, write_transforms
from tests.mutations import mutate_bytes, mutate_json

SECONDS = 10.0


@dataclass(frozen=True)
class Kind:
    """A file of a data set: write(folder) makes the set and gives the file, read(folder, file)
    reads all of it and raises AssertionError when that makes no sense."""

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path, Path], None]


def _photos(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 6), (40 * number, 90, 120)).save(folder / f"{number}.png")


def write_photo_file(folder: Path) -> Path:
    write_transforms(folder, {"k1": -0.1, "p1": 0.01})
    return folder / "transforms.json"


def write_kubric_file(folder: Path) -> Path:
    scene = folder / "scn1"
    for view in range(2):
        _photos(scene / f"frames_p0_v{view}", 0)
        for time_ in range(2):
            Image.new("RGB", (8, 8)).save(scene / f"frames_p0_v{view}" / f"rgba_0000{time_}.png")
        camera = {
            "quaternions": [[1.0, 0.0, 0.1, 0.0]] * 2,
            "positions": [[0.1 * view, 0.2, 3.0]] * 2,
            "K": [[1.1, 0.0, 0.5], [0.0, -1.1, -0.5], [0.0, 0.0, 1.0]],
        }
        content = {"camera": camera, "scene": {"resolution": [8, 8], "num_frames": 2}}
        (scene / f"scn1_p0_v{view}.json").write_text(json.dumps(content))
    return scene / "scn1_p0_v1.json"


def write_syncam_file(folder: Path) -> Path:
    rows = {}
    for number in range(2):
        name = f"cam0{number}"
        grey_video(folder / "videos" / f"{name}.mp4", frames=1)
        pose = np.array(to_world(number)).T
        rows[name] = " ".join(f"[{' '.join(map(str, row))}]" for row in pose) + " "
    (folder / "cameras").mkdir()
    file = folder / "cameras" / "camera_extrinsics.json"
    file.write_text(json.dumps({"frame0": rows, "frame1": rows}))
    return file


def write_mv_video_file(folder: Path) -> Path:
    for animation in ("00", "01"):
        _photos(folder / "videos" / "a1b2" / animation)
    prompts = {"00": {"text_prompt": "a dog runs"}, "01": {"text_prompt": "a dog sits"}}
    file = folder / "uid_info_dict.json"
    file.write_text(json.dumps({"a1b2": {"url": "", "anim": prompts}}))
    return file


def write_metadata_file(folder: Path) -> Path:
    lines = []
    for name in ("a", "b", "c"):
        _photos(folder / name)
        lines.append(json.dumps({"path": name, "caption": f"caf\u00e9 {name}"}))
    lines.append(json.dumps({"path": "a", "caption": "x", "views": ["0.png", "2.png"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder / "metadata.jsonl"


def write_caption_file(folder: Path) -> Path:
    _photos(folder / "a")
    (folder / "a.txt").write_text("a caf\u00e9 \u4e2d\n", encoding="utf-8")
    return folder / "a.txt"


def write_prompt_file(folder: Path) -> Path:
    (folder / "prompts.txt").write_text("a red ball\n\na caf\u00e9 \u4e2d\n", encoding="utf-8")
    return folder / "prompts.txt"


def write_keyframe_file(folder: Path) -> Path:
    keys = [{"view": 1, "time": 0, "fov": 50}, {"position": [0, 0, -3.5], "target": [0, 0.1, 1]}]
    keys[1] |= {"up": [0, -1, 0], "time": 2.5}
    (folder / "keys.json").write_text(json.dumps(keys))
    return folder / "keys.json"


def colmap_writer(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        parameters, lens = [*FOCAL, *CENTER, -0.1, 0.02, 0.01, 0.0], {"k1": -0.1, "k2": 0.02}
        write_colmap(folder, "OPENCV", parameters, lens | {"p1": 0.01}, name.endswith(".bin"))
        return folder / "sparse" / "0" / name

    return write


def read_posed(folder: Path, _: Path) -> None:
    for scene in find_posed_scenes(folder):
        assert torch.isfinite(scene.extrinsics).all() and torch.isfinite(scene.intrinsics).all()
        sample = scene.read([scene.num_views - 1], [0], 8)
        assert torch.isfinite(sample.frames).all() and torch.isfinite(sample.intrinsics).all()


def clips_reader(kind: str, views: int) -> Callable[[Path, Path], None]:
    def read(folder: Path, _: Path) -> None:
        clips, problems = find_clips(kind, folder, views, 1, "a default")
        for problem in problems:
            check_sentence(f"{problem}.", folder)
        for clip in clips:
            clip.caption.encode()
        assert clips or problems

    return read


def read_captions(folder: Path, file: Path) -> None:
    for prompt in read_prompts(file):
        prompt.encode()


def read_keys(_: Path, file: Path) -> None:
    keyframes = load_keyframes(file, torch.eye(3, 4).repeat(2, 1, 1), 4)
    assert torch.isfinite(keyframes.extrinsics).all()
    assert keyframes.times is None or torch.isfinite(keyframes.times).all()


KINDS = {
    kind.name: kind
    for kind in (
        Kind("transforms.json", write_photo_file, read_posed),
        Kind("kubric.json", write_kubric_file, read_posed),
        Kind("syncam.json", write_syncam_file, clips_reader("multiview", 2)),
        Kind("mv_video.json", write_mv_video_file, clips_reader("static", 2)),
        Kind("metadata.jsonl", write_metadata_file, clips_reader("static", 2)),
        Kind("caption.txt", write_caption_file, clips_reader("static", 2)),
        Kind("prompts.txt", write_prompt_file, read_captions),
        Kind("keyframes.json", write_keyframe_file, read_keys),
        *(
            Kind(f"colmap {name}", colmap_writer(name), read_posed)
            for name in ("cameras.txt", "images.txt", "cameras.bin", "images.bin")
        ),
    )
}


def check_sentence(text: str, folder: Path) -> None:
    """A message is one sentence that names a file of the folder."""
    assert len(text.splitlines()) == 1 and text.endswith("."), repr(text)
    assert str(folder) in text, f"no file in {text!r}"
    assert len(text) < 1500, f"{len(text)} characters"


def damaged_content(name: str, content: bytes, seed: str) -> bytes:
    """The content after 1, 2 or 8 mutations, of its JSON where it is such and of its bytes."""
    r = random.Random(seed)
    for _ in range(r.choice((1, 1, 2, 8))):
        lines = content.decode("utf-8", "replace").split("\n")
        try:
            line = r.randrange(len(lines)) if name.endswith("jsonl") else 0
            text = lines[line] if name.endswith("jsonl") else "\n".join(lines)
            if "json" not in name or r.random() < 0.3:
                raise ValueError
            changed = mutate_json(text, r).encode("utf-8", "surrogatepass")
            content = b"\n".join(
                changed if number == line else other.encode()
                for number, other in enumerate(lines if name.endswith("jsonl") else [text])
            )
        except (ValueError, RecursionError):
            data = bytearray(content)
            if data:
                mutate_bytes(data, r)
            content = bytes(data)
    return content


def run_mutations(kind: Kind, count: int, seed: str) -> tuple[Counter, dict[str, str]]:
    """(how many were read and refused, what broke the promise by seed) of `count` mutations."""
    ends, faults = Counter(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        file = kind.write(folder)
        content = file.read_bytes()
        kind.read(folder, file)  # undamaged
        for number in range(count):
            own = f"{seed} {number}"
            file.write_bytes(damaged_content(kind.name, content, own))
            start = time.perf_counter()
            try:
                kind.read(folder, file)
                ends["read"] += 1
                problem = None
            except ValueError as error:
                ends["refused"] += 1
                try:
                    check_sentence(str(error), folder)
                    problem = None
                except AssertionError as wrong:
                    problem = f"message: {wrong}"
            except Exception as error:  # whatever it is, it is what is looked for
                problem = f"{type(error).__name__}: {error}"
            if time.perf_counter() - start > SECONDS:
                problem = f"{time.perf_counter() - start:.0f} s"
            if problem:
                faults[own] = problem[:300]
    return ends, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", default=str(random.randrange(10**6)))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    logging.getLogger("fourreal").setLevel(logging.ERROR)
    total = 0
    for name in options.kinds:
        start = time.perf_counter()
        ends, faults = run_mutations(KINDS[name], options.count, options.seed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        spent = time.perf_counter() - start
        print(f"{name}: {dict(ends)}, {len(faults)} faults, {spent:.0f} s, peak {peak:.0f} MB")
        for own, problem in list(faults.items())[:10]:
            print(f"  seed {own!r}: {problem}")
        total += len(faults)
    print(f"seed {options.seed}: {total} faults")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
