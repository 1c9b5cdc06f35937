"""The names of Wan's tensors, on the key lists of the public files."""

import pytest
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from fourreal.video.wan_keys import comfy_key, transformer_to_diffusers, vae_to_diffusers

from ..tiny import key_list, tiny_transformer, tiny_vace, tiny_vae

TRANSFORMERS = (
    *("wan2.1_t2v_1.3B", "wan2.1_t2v_14B", "wan2.2_ti2v_5B"),
    *("wan2.1_vace_1.3B", "wan2.1_vace_14B"),
)


@pytest.mark.parametrize("file", TRANSFORMERS)
def test_comfy_keys_are_the_way_back_of_diffusers_converter(file):
    public = {key: key for key in key_list(file)}
    converted = convert_wan_transformer_to_diffusers(dict(public))
    assert len(converted) == len(public)
    for name, key in converted.items():
        assert comfy_key(name) == key


@pytest.mark.parametrize("model", [tiny_transformer(), tiny_vace()], ids=["T2V", "VACE"])
def test_every_name_of_a_transformer_survives_both_ways(model):
    there = {comfy_key(key): key for key in model.state_dict()}
    assert len(there) == len(model.state_dict())
    assert all(key == name for key, name in transformer_to_diffusers(there).items())


@pytest.mark.parametrize("key", ["", "blocks.0.extra", "blocks.1.attn3.to_q.weight", "to_q.weight"])
def test_a_foreign_key_has_no_name_in_a_comfyui_file(key):
    with pytest.raises(KeyError):
        comfy_key(key)


@pytest.mark.parametrize(("file", "channels"), [("wan2.1_vae", 16), ("wan2.2_vae", 48)])
def test_the_public_vaes_have_the_names_and_layers_of_diffusers_model(file, channels):
    """Second source: the model's own names, whose shapes tell layers of one block apart."""
    public, model = key_list(file), tiny_vae(channels).state_dict()
    renamed = vae_to_diffusers({key: key for key in public})
    assert renamed.keys() == model.keys()
    for name, key in renamed.items():
        assert len(public[key]) == model[name].ndim, name
        assert public[key][2:] == list(model[name].shape[2:]), name


def test_unknown_tensors_stay_so_that_the_loader_can_name_them():
    assert "blocks.1.extra" in transformer_to_diffusers({"blocks.1.extra": None})
    assert "encoder.extra" in vae_to_diffusers({"encoder.extra": None})
