"""The formulas that the pipeline, ComfyUI's sampler and training share."""

import json
import subprocess
import sys

import pytest
import torch

from fourreal.video.conditioning import (
    CONDITIONINGS,
    WAN_CONVENTIONS,
    model_inputs,
    stage_guidance,
    stage_steps,
)

from ..tiny import key_list, tiny_transformer

LOADED = """
import json, sys
import fourreal.video.conditioning
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_formulas_import_neither_diffusers_nor_what_comes_with_it():
    answer = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(answer.stdout))
    assert "torch" in loaded and "fourreal" in loaded
    assert not loaded & {"diffusers", "transformers", "accelerate", "tokenizers", "peft"}


@pytest.mark.parametrize(
    ("file", "conventions"),
    [
        ("wan2.1_t2v_1.3B", ("add", 21, 3.0)),  # 81 frames
        ("wan2.1_t2v_14B", ("add", 21, 3.0)),
        ("wan2.2_ti2v_5B", ("replace", 31, 5.0)),  # 121 frames, first-frame conditioning
    ],
)
def test_the_conventions_of_every_public_transformer_are_in_the_one_table(file, conventions):
    channels = key_list(file)["patch_embedding.weight"][1]
    found = WAN_CONVENTIONS[channels]
    assert (found.conditioning, found.max_frames, found.shift) == conventions
    assert found.conditioning in CONDITIONINGS


def test_guidance_follows_from_what_a_stage_makes_and_has():
    column, row, rest = (8, 1), (1, 29), (8, 29)
    assert stage_guidance(5.0, [rest], True) == stage_guidance(5.0, [row], False) == [5.0]
    assert stage_guidance(5.0, [column, row, rest], False) == [5.0, 9.0, 1.0]
    assert stage_guidance(5.0, [column, row, rest], True) == [3.0, 9.0, 1.0]  # an image
    assert stage_guidance(5.0, [column, rest], True) == [3.0, 1.0]
    assert stage_guidance(5.0, [row, rest], True) == [9.0, 1.0]
    assert stage_guidance(1.0, [column, row, rest], False) == [1.0, 1.0, 1.0]


def test_the_stage_with_both_references_takes_few_steps():
    assert stage_steps(20, 3) == [20, 20, 4] and stage_steps(20, 2) == [20, 4]
    assert stage_steps(20, 1) == [20] and stage_steps(2, 3) == [2, 2, 2]


def test_add_is_the_sum_of_patch_embeddings_up_to_the_bias():
    """Paper: the references' patch embeddings are added to the noised tokens."""
    embed = tiny_transformer().patch_embedding
    noised, reference = torch.randn(2, 1, 16, 4, 8, 8).unbind(0)
    known = torch.tensor([[True, False, True, False]])
    inputs, timestep = model_inputs(noised, reference, known, torch.tensor([7.0]), "add", 4, 4)
    bias = embed.bias.view(1, -1, 1, 1, 1)
    expected = embed(noised) + known[:, None, :, None, None] * (embed(reference) - bias)
    assert torch.allclose(embed(inputs), expected, atol=1e-5) and timestep.tolist() == [7.0]


def test_replace_shows_clean_references_with_timestep_zero_for_each_of_their_tokens():
    noised, reference = torch.randn(2, 2, 16, 3, 4, 6).unbind(0)
    known = torch.tensor([[True, False, False], [False, False, True]])
    timestep = torch.tensor([7.0, 9.0])
    inputs, timesteps = model_inputs(noised, reference, known, timestep, "replace", 2, 3)
    for b in range(2):
        for n in range(3):
            shown = reference if known[b, n] else noised
            assert torch.equal(inputs[b, :, n], shown[b, :, n])
            tokens = timesteps[b].view(3, 2 * 3)[n]
            assert (tokens == (0 if known[b, n] else timestep[b])).all()
    nothing = model_inputs(noised, reference, known & False, timestep, "replace", 2, 3)
    assert torch.equal(nothing[0], noised) and torch.equal(nothing[1], timestep)
