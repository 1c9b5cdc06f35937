"""Folders in diffusers' layout: variants, parts, and what is none."""

import json
import shutil

import pytest
import torch
from diffusers import WanVACEPipeline, WanVACETransformer3DModel

from fourreal.video.wan_folder import check_pipeline_folder, find_variant, load_pipeline_folder

from ..tiny import tiny_pipeline, tiny_vace

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a small pipeline, and the tensors of its transformer."""
    folder = tmp_path_factory.mktemp("saved")
    pipe = tiny_pipeline()
    pipe.save_pretrained(folder)
    return folder, pipe.transformer.state_dict()


def test_a_folder_of_diffusers_own_vace_pipeline_is_read(tmp_path):
    pipe = tiny_pipeline(transformer=tiny_vace())
    parts = {"tokenizer": pipe.tokenizer, "text_encoder": pipe.text_encoder, "vae": pipe.vae}
    stock = WanVACEPipeline(**parts, scheduler=pipe.scheduler, transformer=pipe.transformer)
    stock.save_pretrained(tmp_path)
    found = load_pipeline_folder(tmp_path)
    assert same(found, pipe.transformer.state_dict())
    assert isinstance(found.transformer, WanVACETransformer3DModel)
    assert found.config.conditioning == "mask" and found.config.max_frames == 21


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "model")


def same(pipe, tensors):
    found = pipe.transformer.state_dict()
    return all(torch.equal(found[k].float(), v.float()) for k, v in tensors.items())


def test_a_saved_pipeline_comes_back_from_its_folder_or_index(saved):
    assert find_variant(saved[0]) is None
    assert same(load_pipeline_folder(saved[0]), saved[1])
    assert same(load_pipeline_folder(saved[0] / "model_index.json"), saved[1])


def test_the_fp16_variant_is_read_where_the_full_weights_are_not_there(saved, tmp_path):
    pipe = load_pipeline_folder(saved[0]).to(torch.float16)
    expected = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    assert find_variant(tmp_path / "half") == "fp16"
    assert same(load_pipeline_folder(tmp_path / "half", torch.float32), expected)
    # a part that is there in full, another in both variants
    full = "diffusion_pytorch_model.safetensors"
    shutil.copy(saved[0] / "vae" / full, tmp_path / "half/vae" / full)
    (tmp_path / "half/vae/diffusion_pytorch_model.fp16.safetensors").unlink()
    shutil.copy(saved[0] / "text_encoder/model.safetensors", tmp_path / "half/text_encoder")
    assert same(load_pipeline_folder(tmp_path / "half", torch.float32), expected)
    name = tmp_path / "half/vae"
    (name / full).rename(name / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(ValueError, match=r"different variants \(fp16, bf16\)"):
        load_pipeline_folder(tmp_path / "half")


def test_a_transformer_in_parts_is_read_and_a_missing_part_is_named(saved, folder):
    pipe = load_pipeline_folder(folder)
    shutil.rmtree(folder / "transformer")
    pipe.transformer.save_pretrained(folder / "transformer", max_shard_size="200KB")
    assert same(load_pipeline_folder(folder), saved[1])
    part = next((folder / "transformer").glob("*-00002-of-*.safetensors"))
    part.unlink()
    with pytest.raises(ValueError, match=rf"{part.name} is missing"):
        load_pipeline_folder(folder)


INDEX = {
    "_class_name": "WanPipeline",
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "model_index.json has .*, but an object is needed"),
        ("null", "model_index.json has .*, but an object is needed"),
        ("3", "model_index.json has .*, but an object is needed"),
        ('"WanPipeline"', "model_index.json has .*, but an object is needed"),
        ("{}", "model_index.json names no pipeline"),
        ("", "model_index.json is not JSON"),
        ("{", "model_index.json is not JSON"),
        ("\udcff\udcfe{}", "model_index.json is UTF-16"),
        ("[" * 10**5, "nested too deeply"),
        (json.dumps({"transformer_2": 5}), "names no pipeline"),
        (json.dumps(INDEX | {"transformer_2": INDEX["transformer"]}), "has two transformers"),
        (json.dumps(INDEX | {"transformer": 5}), "whose transformer is not there"),
        (json.dumps(INDEX | {"transformer": ["os", "system"]}), "is system of os, but"),
        (json.dumps(INDEX | {"vae": ["my_code", "Vae"]}), "whose vae is Vae of my_code"),
        (json.dumps(INDEX | {"vae": [None, None]}), "whose vae is not there"),
        (json.dumps(INDEX | {"vae": [["a"], {}]}), "whose vae is not there"),
        (json.dumps(INDEX | {"image_encoder": ["transformers", "CLIP"]}), "has image_encoder"),
        (json.dumps(INDEX | {"_class_name": ["code", "Pipeline"]}), "names no pipeline"),
        (
            json.dumps(INDEX | {"transformer": ["diffusers", "FluxTransformer2DModel"]}),
            "whose transformer is FluxTransformer2DModel of diffusers, but a Wan text-to-video",
        ),
    ],
)
def test_an_index_that_is_not_of_wan_is_named(folder, text, sentence):
    (folder / "model_index.json").write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=sentence) as error:
        check_pipeline_folder(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def replace_by_pickle(folder):
    (folder / "transformer/diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, folder / "transformer/diffusion_pytorch_model.bin")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: shutil.rmtree(f / "tokenizer"), "lacks the folder tokenizer"),
        (lambda f: shutil.rmtree(f / "vae"), "lacks the folder vae"),
        (lambda f: (f / WEIGHTS).unlink(), "vae has no file of weights"),
        (lambda f: (f / WEIGHTS).write_text(LFS), "a git-LFS pointer"),
        (lambda f: (f / "tokenizer/tokenizer.json").write_text(LFS), "a git-LFS pointer"),
        (lambda f: (f / "tokenizer/tokenizer.json").unlink(), "cannot be loaded as a Wan model"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "is empty"),
        (lambda f: cut(f / WEIGHTS), "cannot be loaded as a Wan model"),
        (
            lambda f: (f / "vae/config.json").write_text("[]"),
            r"config\.json has an empty list, but an object",
        ),
        (lambda f: (f / "vae/config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda f: (f / "vae/config.json").unlink(), "cannot be loaded as a Wan model"),
        (replace_by_pickle, r"only diffusion_pytorch_model\.bin, which is not read"),
        (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
        (shutil.rmtree, "is no folder"),
    ],
)
def test_a_folder_that_is_incomplete_is_named_in_one_sentence(folder, damage, sentence):
    damage(folder)
    with pytest.raises(ValueError, match=sentence) as error:
        load_pipeline_folder(folder)
    message = str(error.value)
    assert str(folder) in message and "\n" not in message and len(message) < 700


def test_infinity_in_a_config_is_read_as_diffusers_writes_it(folder):
    file = folder / "scheduler/scheduler_config.json"
    file.write_text(file.read_text().replace("{", '{\n"lambda_min_clipped": -Infinity,', 1))
    assert check_pipeline_folder(folder) == folder
