"""A node pack for the test server: tiny stand-ins for the Wan files that workflows name.

ComfyUI takes the sizes of UMT5-XXL from its own code, not from the file, so this also makes those
smaller. Everything else (names, layouts, loaders) is the real thing.
"""

import json
from pathlib import Path

import comfy.ldm.wan.vae
import comfy.text_encoders.wan
import folder_paths
import torch
from safetensors.torch import save_file

NODE_CLASS_MAPPINGS = {}
MODELS = Path(folder_paths.models_dir)
TEMPORAL = {"attn_scales": [], "temperal_downsample": [False, True, True]}

encoder = comfy.text_encoders.wan.UMT5XXlModel
folder = Path(comfy.text_encoders.wan.__file__).parent
config = json.loads((folder / "umt5_config_xxl.json").read_text())
config |= {"d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 1, "vocab_size": 256}


def start_small(self, device="cpu", dtype=None, model_options=None, **_):
    comfy.text_encoders.wan.sd1_clip.SDClipModel.__init__(
        self,
        device=device,
        textmodel_json_config=config,
        dtype=dtype,
        special_tokens={"end": 1, "pad": 0},
        model_class=comfy.text_encoders.t5.T5,
        enable_attention_masks=True,
        zero_out_masked=True,
        model_options=model_options or {},
    )


encoder.__init__ = start_small


def save(model, path: Path, **more) -> None:
    tensors = {k: 0.02 * torch.randn(v.shape).half() for k, v in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors | more, path)


torch.manual_seed(0)
wan21 = comfy.ldm.wan.vae.WanVAE(
    dim=16, z_dim=16, image_channels=3, conv_out_channels=3, **TEMPORAL
)
save(wan21, MODELS / "vae" / "wan_2.1_vae.safetensors")
