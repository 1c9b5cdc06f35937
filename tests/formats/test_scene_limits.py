"""Scene files that cannot be scenes: one sentence each, and no more memory than is stated."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from fourreal.formats import load_scene
from fourreal.formats.scene_file import MAX_METADATA, MAX_TIMES


def write(path, times=1, views=1, harmonics=1, cameras=None, **header):
    """A scene file of one still Gaussian and empty times, made without our writer."""
    fields = {"means": (3,), "quaternions": (4,), "scales": (3,), "opacities": ()}
    fields["harmonics"] = (harmonics, 3)
    parts = (("static", 1), ("dynamic", 0))
    tensors = {f"{p}.{k}": torch.ones(n, *s) for p, n in parts for k, s in fields.items()}
    tensors["dynamic.counts"] = torch.zeros(times, dtype=torch.int64)
    tensors["extrinsics"] = torch.eye(3, 4).repeat(views, 1, 1)
    tensors["intrinsics"] = torch.eye(3).repeat(views, 1, 1)
    if cameras is not None:
        tensors["extrinsics"][0, 0, 0] = cameras
    usual = {"format": "fourreal.scene", "version": "1", "width": "64", "height": "48"}
    save_file(tensors, path, usual | {"fps": "8.0", "metadata": "{}"} | header)
    return path


def test_the_file_of_these_tests_is_a_scene(tmp_path):
    assert load_scene(write(tmp_path / "s.safetensors", times=3, harmonics=25)).num_frames == 3


WRONG = {
    "no times": ({"times": 0}, "types"),
    "many times": ({"times": MAX_TIMES + 1}, f"at most {MAX_TIMES}"),
    "no views": ({"views": 0}, "no cameras"),
    "nan cameras": ({"cameras": float("nan")}, "not finite"),
    "infinite cameras": ({"cameras": float("inf")}, "not finite"),
    "no harmonics": ({"harmonics": 0}, "coefficients"),
    "two harmonics": ({"harmonics": 2}, "coefficients"),
    "degree 5": ({"harmonics": 36}, "coefficients"),
    "metadata": ({"metadata": json.dumps(["{}"] * (MAX_METADATA // 4))}, "letters of metadata"),
    "deep": ({"metadata": "[" * 100_000}, "damaged"),
    "list": ({"metadata": "[]"}, "dictionary"),
    **{f"fps {x}": ({"fps": x}, "frames per second") for x in ("1e300", "nan", "inf", "0", "-1")},
    **{f"width {x}": ({"width": x}, "pixels") for x in ("1000000000", "0", "-5", "16384")},
    "width text": ({"width": "wide"}, "wide"),
    "width digits": ({"width": "9" * 5000}, "damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_a_scene_is_refused_in_one_sentence(tmp_path, name):
    options, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as error:
        load_scene(write(tmp_path / "wrong.safetensors", **options))
    assert "wrong.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_a_header_of_many_names_is_refused_unread(tmp_path):
    """800,000 names in a header of 53 MB took 700 MB."""
    one = '"a%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(one % i for i in range(150_000)) + "}").encode()
    path = tmp_path / "names.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"names\.safetensors has a header of"):
        load_scene(path)
