"""`fourreal convert`: any format into any other, with cameras beside it."""

import json

from fourreal.cli import main
from fourreal.formats import load_glb, open_scene, save_scene

from .test_render_command import dynamic_scene


def test_the_convert_command_writes_files_folders_cameras_and_a_page(tmp_path, capsys):
    source = tmp_path / "s.safetensors"
    save_scene(dynamic_scene(), source)

    def convert(*arguments):
        return main(["convert", str(source), *map(str, arguments)])

    assert convert(tmp_path / "s.glb", "--time", 2) == 0
    assert len(load_glb(tmp_path / "s.glb")) == 70
    assert convert(tmp_path / "frames", "--sequence", "spz") == 0
    assert [len(g) for g in open_scene(tmp_path / "frames").dynamic] == [80, 50, 70]
    assert convert(tmp_path / "s.zip", "--cameras", tmp_path / "c.json") == 0
    frame = json.loads((tmp_path / "c.json").read_text())["frames"][0]
    assert (frame["w"], frame["h"], round(frame["fl_y"], 3)) == (37, 29, 36.0)
    assert convert(tmp_path / "page.html") == 0
    assert "<html" in (tmp_path / "page.html").read_text()[:500]
    capsys.readouterr()
    assert convert(tmp_path / "s.ply") == 2
    assert "holds one; choose a time with --time (0 to 2)" in capsys.readouterr().err
    assert not (tmp_path / "s.ply").exists()
