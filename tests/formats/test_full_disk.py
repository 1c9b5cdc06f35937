"""A disk that is full: one OSError that names the file, and nothing left of it."""

import pytest

from fourreal.formats import save_ply, save_scene, save_splat, save_spz, save_usd

from ..tiny import cloud
from .comparing import scene

resource = pytest.importorskip("resource", reason="limits of files' sizes: on Linux only")

WRITERS = {
    "g.ply": lambda path: save_ply(cloud(20_000, 1), path),
    "g.spz": lambda path: save_spz(cloud(20_000, 1), path),
    "g.splat": lambda path: save_splat(cloud(20_000, 0), path),
    "s.safetensors": lambda path: save_scene(large_scene(), path),
    "s.usdc": lambda path: save_usd(large_scene(), path),
}


def large_scene():
    large = scene()
    large.static = cloud(20_000, 1)
    return large


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_with_the_file_and_the_old_one_stays(tmp_path, name):
    """Files may have 4,000 bytes at most, which fails as a full disk does."""
    if name.endswith(".usdc"):
        pytest.importorskip("pxr.Usd", reason="usd-core is not installed (the extra `usd`)")
    path = tmp_path / name
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(OSError, match=name) as error:
            WRITERS[name](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
