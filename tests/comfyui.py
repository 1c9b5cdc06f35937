"""What the tests of the pack share: models, prompts, and a real ComfyUI server on the CPU.

Models are untrained and tiny, in the files and layouts that the workflows name.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = os.environ.get("COMFYUI_PATH")
FRONTEND = os.environ.get("COMFYUI_FRONTEND")  # another than the checkout wants: a static folder
CHANNELS = 16  # of the latents of the untrained models made here
needs_comfyui = pytest.mark.skipif(
    not COMFYUI, reason="set COMFYUI_PATH to a ComfyUI checkout to run this"
)
one_conditioning = pytest.mark.parametrize("weights", ["replace"], indirect=True)
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINT = ROOT / "subgraphs" / "Text to 4D (4Real).json"
NOTES = {"Note", "MarkdownNote"}
MUTED = 2  # a node's mode in a workflow's file
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
FRAMES, PATH_FRAMES, SIZE = 5, 6, 64
SMALLER = {
    "steps": 2,
    "num_frames": FRAMES,
    "length": FRAMES,
    "frames": PATH_FRAMES,
    "freeze_at": 2,
    "width": SIZE,
    "height": SIZE,
}


def to_api(workflow: dict, object_info: dict) -> dict:
    """A workflow in the editor's format as the prompt that the editor would queue."""
    nodes = [n for n in workflow["nodes"] if n["type"] not in NOTES and n["mode"] != MUTED]
    present = {node["id"] for node in nodes}
    links = {k[0]: [str(k[1]), k[2]] for k in workflow["links"] if k[1] in present}
    prompt = {}
    for node in nodes:
        inputs = {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] in links}
        values = iter(node.get("widgets_values", []))
        schema = object_info[node["type"]]["input"]
        optional = schema.get("optional", {})
        for name, (kind, *options) in (schema.get("required", {}) | optional).items():
            options = options[0] if options else {}
            if isinstance(kind, list) or kind in WIDGETS:
                # A widget that came after the workflow was saved keeps its default.
                default = [options.get("default")] if name in optional else []
                inputs.setdefault(name, next(values, *default))
                # The editor puts a widget of its own after these.
                if options.keys() & {"control_after_generate", "image_upload", "video_upload"}:
                    next(values)
        assert next(values, None) is None, f"{node['type']} has more values than widgets"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def prompt_of(nodes: dict) -> dict:
    """A prompt of (type, inputs) by name."""
    return {k: {"class_type": kind, "inputs": inputs} for k, (kind, inputs) in nodes.items()}


def smaller(prompt: dict) -> dict:
    """The prompt with few steps, frames and pixels where the workflow's file sets them."""
    for node in prompt.values():
        for name, value in SMALLER.items():
            given = node["inputs"].get(name)
            if isinstance(given, int) and given > value:
                node["inputs"][name] = value
    return prompt


def write_random_weights(
    folder: Path, conditioning: str | None = "replace", channels: int = CHANNELS
) -> None:
    """Untrained models in the files and formats of the embedded ones; without conditioning the
    transformer's file notes nothing about itself."""
    from fourreal.embedded.autoencoder import BlockAutoencoder, save_autoencoder
    from fourreal.embedded.text import (
        build_text_encoder,
        build_tokenizer,
        caption_words,
        save_text_encoder,
    )
    from fourreal.reconstruction import VGGT, VGGTConfig, save_model
    from fourreal.training.video_config import VideoConfig
    from fourreal.training.video_model import add_vace, build_transformer
    from fourreal.video.wan_files import save_transformer

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    noted = {"conditioning": conditioning, "max_frames": 8, "max_tokens": 32, "shift": 3.0}
    noted = noted if conditioning else {}
    transformer = build_transformer(VideoConfig(layers=2), channels)
    tensors = transformer.state_dict()
    save_transformer(folder / "transformer.safetensors", tensors, transformer.config, noted)
    vace = add_vace(transformer, 8)
    torch.nn.init.normal_(vace.vace_blocks[0].proj_out.weight, std=0.02)
    noted = noted and noted | {"conditioning": "mask"}
    save_transformer(folder / "vace.safetensors", vace.state_dict(), vace.config, noted)
    tokenizer = build_tokenizer(caption_words())
    encoder = build_text_encoder(len(tokenizer))
    save_text_encoder(encoder, tokenizer, folder / "text_encoder.safetensors")
    autoencoder = BlockAutoencoder(z_dim=channels)
    smooth = torch.rand(6, 3, 3, 8, 8) * 2 - 1
    autoencoder.fit([torch.nn.functional.interpolate(smooth, (9, 64, 64), mode="trilinear")])
    save_autoencoder(autoencoder, folder / "autoencoder.safetensors")
    save_model(VGGT(VGGTConfig.small()), folder / "reconstructor.safetensors", torch.float16)


def write_model_files(models: Path) -> None:
    """Tiny files under the names of the downloads, but for the VAEs (see tiny_wan_pack.py)."""
    import sentencepiece
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
    from safetensors.torch import save_file
    from transformers import UMT5Config, UMT5EncoderModel

    from fourreal.video.wan_keys import comfy_key

    from .tiny import TRACKER, tiny_model

    def save(tensors: dict, place: str, key=lambda k: k) -> None:
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        save_file({key(k): v.half().contiguous() for k, v in tensors.items()}, models / place)

    torch.manual_seed(0)
    vace = {"vace_layers": [0, 1]}
    for name, make, channels, more in (
        ("wan2.1_t2v_1.3B_fp16", WanTransformer3DModel, 16, {}),
        ("wan2.2_ti2v_5B_fp16", WanTransformer3DModel, 48, {}),
        ("wan2.1_vace_1.3B_fp16", WanVACETransformer3DModel, 16, vace),
    ):
        network = make(
            num_attention_heads=1,
            attention_head_dim=128,
            in_channels=channels,
            out_channels=channels,
            text_dim=4096,
            ffn_dim=128,
            num_layers=2,
            **more,
        )
        save(
            network.state_dict(),
            f"diffusion_models/{name}.safetensors",
            comfy_key,
        )
    config = UMT5Config(
        vocab_size=256,
        d_model=4096,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        is_encoder_decoder=False,
    )
    text = UMT5EncoderModel(config).state_dict()
    text.pop("encoder.embed_tokens.weight")
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a corgi shakes off water", "blurry, low quality"] * 20),
        model_writer=pieces,
        vocab_size=256,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    # By this tensor's shape ComfyUI knows a UMT5-XXL.
    text["encoder.block.23.layer.1.DenseReluDense.wi_1.weight"] = torch.zeros(10240, 1)
    place = "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    save(text, place)
    text = {k: v.half() for k, v in text.items()}
    text["spiece_model"] = torch.frombuffer(bytearray(pieces.getvalue()), dtype=torch.uint8)
    save_file(text, models / place)
    vggt = tiny_model(temporal="none", gaussian_head="none", **TRACKER)
    save(vggt.state_dict(), "geometry_estimation/vggt_1b.safetensors")


def copy_pack(folder: Path) -> None:
    ignored = shutil.ignore_patterns("out", "build", "__pycache__", "tests", "node_modules", ".*")
    shutil.copytree(ROOT, folder, ignore=ignored)


class Server:
    """A real ComfyUI server on the CPU with the pack in its custom_nodes."""

    def __init__(self, base: Path, weights: Path):
        self.base, self.log = base, base / "server.log"
        for name in ("custom_nodes/tiny_wan", "models", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True)
        self.pack = base / "custom_nodes" / "4real"
        copy_pack(self.pack)
        shutil.copy(
            Path(__file__).parent / "nodes" / "tiny_wan_pack.py",
            base / "custom_nodes" / "tiny_wan" / "__init__.py",
        )
        write_model_files(base / "models")
        Image.new("RGB", (96, 72), (30, 80, 200)).save(base / "input/example.png")  # as in ComfyUI
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "main.py", "--cpu", "--port", str(port), "--base-directory"]
        frontend = ["--front-end-root", FRONTEND] if FRONTEND else []
        self.command = [*command, str(base), "--disable-api-nodes", *frontend]
        self.environment = os.environ | {"FOURREAL_WEIGHTS": str(weights)}
        self.start()

    def start(self) -> None:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=COMFYUI,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
            )

    def restart(self) -> None:
        """End the server and start it again at the same address."""
        self.process.terminate()
        self.process.wait(30)
        self.start()
        self.wait_for(lambda: self.ask("/system_stats"), 300)

    def ask(self, route: str, data: dict | None = None) -> dict:
        body = json.dumps(data).encode() if data is not None else None
        request = urllib.request.Request(
            self.url + route, body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def wait_for(self, look, seconds: float):
        """The first result of look() that is not empty."""
        end = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < end, self.log.read_text()[-4000:]
            try:
                found = look()
            except OSError:
                found = None  # not listening yet
            if found:
                return found
            time.sleep(0.2)

    def finish(self, prompt: dict, seconds: float = 600) -> dict:
        """Execute a prompt, and give what the history then says about it."""
        queued = self.ask("/prompt", {"prompt": prompt})
        assert not queued["node_errors"]
        name = queued["prompt_id"]
        return self.wait_for(lambda: self.ask(f"/history/{name}"), seconds)[name]

    def run(self, prompt: dict) -> dict:
        """Execute a prompt and give what its output nodes reported, by node id."""
        done = self.finish(prompt)
        assert done["status"]["status_str"] == "success", done["status"]["messages"]
        return done["outputs"]
