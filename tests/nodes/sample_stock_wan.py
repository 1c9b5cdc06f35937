"""Samples grids with an untrained stock Wan MODEL; fails where the pack imports what it must not.

    python tests/nodes/sample_stock_wan.py WAN21_T2V [COMFYUI]

The family is WAN21_T2V or WAN22_T2V; without a checkout of ComfyUI the stand-in is used. It is a
process of its own, because the tests have imported those packages already.
"""

import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {"diffusers", "accelerate", "peft", "transformers"}
TEXT_DIM = 64


def start_comfyui(checkout: str | None, folder: Path) -> None:
    if checkout:
        sys.path.insert(0, checkout)
        from comfy.cli_args import args

        args.cpu = True
    else:
        sys.path.insert(0, str(ROOT / "tests"))
        import comfy_stand_in

        comfy_stand_in.install(folder)


def stock_model(family: str):
    """A MODEL as core's loader makes it of a file of this family, in small."""
    supported = importlib.import_module("comfy.supported_models")
    patching = importlib.import_module("comfy.model_patcher")
    channels = {"WAN21_T2V": 16, "WAN22_T2V": 48}[family]
    config = getattr(supported, family)(
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "patch_size": (1, 2, 2),
            "in_dim": channels,
            "out_dim": channels,
            "dim": 128,
            "num_heads": 1,
            "num_layers": 2,
            "ffn_dim": 128,
            "freq_dim": 32,
            "text_dim": TEXT_DIM,
            "eps": 1e-6,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, "", device=cpu)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return patching.CoreModelPatcher(model, cpu, cpu), channels


def import_pack():
    spec = importlib.util.spec_from_file_location(
        "fourreal_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["fourreal_pack"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("fourreal_pack.nodes")


@torch.inference_mode()
def sample_grids(model, channels: int) -> None:
    """With the sampler's node without references, and with a stock sampler with all of them."""
    stock, pack = importlib.import_module("nodes"), import_pack()
    text = [[torch.randn(1, 8, TEXT_DIM), {}]]
    empty = pack.GridLatent.execute(2, 5, 32, 32).args[0]
    made = pack.ViewTimeSampler.execute(
        model, text, text, empty, 0, 2, 3.0, "euler", "simple", 1.0
    ).args[0]["samples"]
    assert made.shape[:3] == (2, channels, 2) and made.isfinite().all()

    known = torch.tensor([[True, True], [True, False]])
    latent = {"samples": torch.randn_like(made), pack.types.KNOWN: known}
    latent["noise_mask"] = pack.types.noise_mask_of(known, made)
    results = []
    for view_strength in (0.0, 1.0):
        patched = pack.ApplyViewTimeAttention.execute(model, latent, view_strength).args[0]
        (out,) = stock.KSampler().sample(patched, 0, 2, 1.0, "euler", "simple", text, text, latent)
        results.append(out["samples"])
    assert (results[0] - results[1]).abs().max() > 1e-4  # the views have seen each other


def main(family: str, checkout: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start_comfyui(checkout, Path(folder))
        model, channels = stock_model(family)
        importlib.import_module("nodes")
        before = set(sys.modules)
        sample_grids(model, channels)
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not FORBIDDEN & new, FORBIDDEN & new
    assert not {"diffusers", "accelerate"} & set(sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
