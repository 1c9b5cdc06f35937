"""Files of weights: told by their first bytes, in parts, in folders, behind prefixes."""

import json
import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from fourreal.files.weights_files import read_weights, strip_prefix

TENSORS = {f"blocks.{i}.q.weight": torch.full((2, 3), float(i)) for i in range(5)}


def same(found, expected=TENSORS):
    return found.keys() == expected.keys() and all(
        torch.equal(found[k], expected[k]) for k in found
    )


def write_parts(folder, stem="diffusion_pytorch_model", index="{}.safetensors.index.json"):
    """A checkpoint in two parts; the paths of the parts and of the index."""
    folder.mkdir(exist_ok=True)
    names = [f"{stem}-{i + 1:05d}-of-00002.safetensors" for i in range(2)]
    parts = [{k: v for k, v in TENSORS.items() if int(k.split(".")[1]) % 2 == i} for i in range(2)]
    for name, part in zip(names, parts):
        save_file(part, folder / name, {"format": "pt"})
    places = {key: names[int(key.split(".")[1]) % 2] for key in TENSORS}
    (folder / index.format(stem)).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return [folder / name for name in names], folder / index.format(stem)


def test_a_checkpoint_in_parts_is_read_from_its_index_a_part_or_its_folder(tmp_path):
    parts, index = write_parts(tmp_path / "model")
    for given in (*parts, index, tmp_path / "model", str(index)):
        tensors, metadata = read_weights(given)
        assert same(tensors) and metadata == {"format": "pt"}


def test_the_fp16_variant_in_parts_is_read_where_it_is_alone_or_asked_for(tmp_path):
    names = ("model.fp16", "model.safetensors.index.fp16.json")
    parts, index = write_parts(tmp_path / "half", *names)
    for given in (*parts, index, tmp_path / "half"):
        assert same(read_weights(given)[0])
    write_parts(tmp_path / "half", "model")
    (tmp_path / "half/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors is missing: model"):
        read_weights(tmp_path / "half")  # the full one
    assert same(read_weights(parts[1])[0])


def test_a_folder_is_its_one_file_and_the_full_one_of_variants(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.fp16.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "._model.safetensors").write_bytes(b"\0\5\x16\7")
    assert same(read_weights(tmp_path)[0], {"a": torch.ones(1)})
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert same(read_weights(tmp_path)[0])
    save_file(TENSORS, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"2 files of weights \(model.safetensors, other"):
        read_weights(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["m.pth", "m.pt", "m.ckpt", "m.bin", "m.safetensors"])
def test_a_pytorch_file_is_read_whatever_its_name(tmp_path, name, legacy):
    torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert same(read_weights(tmp_path / name)[0])


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": TENSORS, "epoch": 3, "optimizer_states": [{"state": {}}]},
        {"model": TENSORS, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        {"generator_ema": TENSORS},
        {"module": {"state_dict": TENSORS}},
    ],
)
def test_the_state_dict_of_a_training_program_is_found(tmp_path, content):
    torch.save(content, tmp_path / "m.pt")
    assert same(read_weights(tmp_path / "m.pt")[0])


def test_safetensors_are_read_under_any_name_and_header_length(tmp_path):
    """The first byte of the header's length may be any, that of other formats too."""
    for length in range(100, 356):
        note = {"n": "x" * (length * 8)}
        save_file(TENSORS, tmp_path / "m.gguf", note)
        tensors, metadata = read_weights(tmp_path / "m.gguf")
        assert same(tensors) and metadata == note


def make_program(path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {path.with_name('ran')}",)

    torch.save({"a": torch.zeros(1), "b": Evil()}, path)


def make_zip(path, compression=zipfile.ZIP_STORED, name="notes.txt"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, b"\0" * 100)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("m.gguf", lambda p: p.write_bytes(b"GGUF\3\0\0\0" + b"\0" * 90), "is a GGUF file; use"),
        ("m.safetensors", lambda p: p.write_bytes(b"GGUF\3\0\0\0{" + b"\0" * 90), "a GGUF file"),
        ("m.safetensors", lambda p: p.write_text(LFS), "is a git-LFS pointer.*git lfs pull"),
        ("m.safetensors", lambda p: p.write_text("<!DOCTYPE html><html>"), "is a web page"),
        ("m.safetensors", lambda p: p.write_text("\n <html>"), "is a web page"),
        ("m.safetensors", lambda p: p.write_bytes(b""), "is empty; download or copy it again"),
        ("m.safetensors", lambda p: p.write_text("Entry not found"), "is not a complete"),
        ("m.safetensors", lambda p: p.write_text('{"a": 1}'), "a JSON file, but not the index"),
        ("m.json", lambda p: p.write_text("[]"), "a JSON file, but not the index"),
        ("m.json", lambda p: p.write_text("[" * 10**5), "a JSON file, but not the index"),
        ("m.json", lambda p: p.write_text('{"weight_map": {}}'), "lists none of them"),
        ("m.json", lambda p: p.write_text('{"weight_map": {"a": "../b.st"}}'), "not a file beside"),
        ("m.json", lambda p: p.write_text('{"weight_map": {"a": "b.st"}}'), "b.st is missing"),
        ("m-00001-of-00002.safetensors", lambda p: save_file(TENSORS, p), "their index"),
        ("m.npy", lambda p: p.write_bytes(b"\x93NUMPY\1\0"), "a NumPy array"),
        ("m.h5", lambda p: p.write_bytes(b"\x89HDF\r\n"), "an HDF5 file"),
        ("m.safetensors.gz", lambda p: p.write_bytes(b"\x1f\x8b\x08"), "gzip archive; unpack"),
        ("m.pth", make_program, r"a PyTorch \(\.pth\) file.*more than tensors"),
        ("m.pth", lambda p: torch.save([1, 2], p), "does not hold one state dict"),
        ("m.pth", lambda p: torch.save({"a": 1}, p), "does not hold one state dict"),
        ("m.pth", lambda p: torch.save({"x": TENSORS, "y": TENSORS}, p), "not hold one state"),
        ("m.pth", lambda p: p.write_bytes(b"PK\3\4 cut"), "damaged or holds more than tensors"),
        ("m.pth", lambda p: p.write_bytes(b"\x80\x02}q\0"), "damaged or holds more than"),
        ("m.zip", make_zip, r"a zip archive of other files \(such as notes.txt\)"),
        ("m.pt", lambda p: make_zip(p, zipfile.ZIP_DEFLATED, "m/data.pkl"), "a compressed zip"),
        ("folder", lambda p: p.mkdir(), "is a folder without weights"),
        ("folder", lambda p: (p / "transformer").mkdir(parents=True), "of a whole pipeline"),
        ("none.safetensors", lambda p: None, "does not exist"),
    ],
)
def test_what_is_no_file_of_weights_is_named(tmp_path, name, make, sentence):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=sentence) as error:
        read_weights(tmp_path / name)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


PREFIXES = (
    "",
    "module.",
    "_orig_mod.",
    "model.",
    "diffusion_model.",
    "model.diffusion_model.",
    "first_stage_model.",
    "vae.",
    "text_encoders.umt5xxl.transformer.",
    "module._orig_mod.model.",
    "pipe.dit.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_with_which_known_names_appear_is_stripped(tmp_path, prefix):
    others = {"optimizer.step": torch.zeros(1)} if prefix not in ("", "_orig_mod.") else {}
    save_file({prefix + k: v for k, v in TENSORS.items()} | others, tmp_path / "m.safetensors")
    tensors, _ = read_weights(tmp_path / "m.safetensors")
    known = ("blocks.0.q.weight", "blocks.3.q.weight")
    assert same(strip_prefix(tensors, known, "m"))


def test_a_prefix_is_one_under_which_all_known_names_are():
    tensors = {"a.x": torch.ones(1), "b.x": torch.ones(1), "b.y": torch.ones(1)}
    assert strip_prefix(tensors, ("x", "y"), "m").keys() == {"x", "y"}
    assert strip_prefix(tensors, ("x", "z"), "m") == tensors
    with pytest.raises(ValueError, match=r"m holds the same model 2 times, under a\. and b\."):
        strip_prefix(tensors, ("x",), "m")


def test_wrappers_within_names_are_removed(tmp_path):
    names = ("blocks.0._orig_mod.q.weight", "_fsdp_wrapped_module.blocks.1.q.weight")
    save_file({name: torch.ones(1) for name in names}, tmp_path / "m.safetensors")
    assert read_weights(tmp_path / "m.safetensors")[0].keys() == {
        "blocks.0.q.weight",
        "blocks.1.q.weight",
    }
