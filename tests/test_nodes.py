"""The ComfyUI pack: its workflow files, and on a real ComfyUI where COMFYUI_PATH is set to one."""

import importlib.util
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

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = os.environ.get("COMFYUI_PATH")
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
STOCK_NODES = {"CreateVideo", "PreviewImage", "SaveVideo", "VAEDecode"}
NOTES = {"Note", "MarkdownNote"}
CHANNELS = 16  # of the latents of the untrained models made here
needs_comfyui = pytest.mark.skipif(
    not COMFYUI, reason="set COMFYUI_PATH to a ComfyUI checkout to run this"
)


def to_api(workflow: dict, object_info: dict) -> dict:
    """A workflow in the editor's format as the prompt that the editor would queue."""
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        inputs = {i["name"]: list(links[i["link"]]) for i in node["inputs"] if i["link"]}
        values = iter(node.get("widgets_values", []))
        schema = object_info[node["type"]]["input"]
        for name, (kind, *options) in (schema["required"] | schema.get("optional", {})).items():
            options = options[0] if options else {}
            is_widget = isinstance(kind, list) or kind in (
                "INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR",
            )  # fmt: skip
            if is_widget and not options.get("forceInput"):
                value = next(values, options.get("default"))
                inputs.setdefault(name, value)
                if options.get("control_after_generate"):
                    next(values)
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def write_random_weights(folder: Path, conditioning: str = "replace") -> None:
    """Untrained models in the files and formats of the embedded ones."""
    from fourreal.reconstruction import VGGT, VGGTConfig, save_model
    from fourreal.training.video import VideoConfig, build_transformer
    from fourreal.video.block_autoencoder import BlockAutoencoder
    from fourreal.video.files import save_single_file, transformer_key
    from fourreal.video.text import (
        build_text_encoder,
        build_tokenizer,
        caption_words,
        save_text_encoder,
    )

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    noted = {"conditioning": conditioning, "max_frames": 8, "max_tokens": 32, "shift": 3.0}
    transformer = build_transformer(VideoConfig(layers=2), CHANNELS)
    save_single_file(transformer, folder / "transformer.safetensors", transformer_key, noted)
    tokenizer = build_tokenizer(caption_words())
    encoder = build_text_encoder(len(tokenizer))
    save_text_encoder(encoder, tokenizer, folder / "text_encoder.safetensors")
    autoencoder = BlockAutoencoder(z_dim=CHANNELS)
    smooth = torch.rand(6, 3, 3, 8, 8) * 2 - 1
    autoencoder.fit([torch.nn.functional.interpolate(smooth, (9, 64, 64), mode="trilinear")])
    save_single_file(autoencoder, folder / "autoencoder.safetensors", lambda key, _: key)
    save_model(VGGT(VGGTConfig.small()), folder / "reconstructor.safetensors", torch.float16)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_links_existing_slots_of_known_nodes(path):
    workflow = json.loads(path.read_text())
    source = "".join(p.read_text() for p in (ROOT / "nodes").glob("*.py"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    for node in nodes.values():
        known = node["type"] in STOCK_NODES | NOTES or f'node_id="{node["type"]}"' in source
        assert known, node["type"]
    assert any(node["type"] in NOTES for node in nodes.values())
    seen = set()
    for link, start, output, end, slot, kind in workflow["links"]:
        assert link not in seen
        seen.add(link)
        assert link in nodes[start]["outputs"][output]["links"]
        assert nodes[end]["inputs"][slot]["link"] == link
        assert nodes[start]["outputs"][output]["type"] == nodes[end]["inputs"][slot]["type"] == kind
    used = {i["link"] for node in nodes.values() for i in node["inputs"] if i["link"]}
    assert used == seen


def test_the_library_and_the_pack_import_without_comfyui():
    """The pack's entrance may be imported by other tools; only its call needs ComfyUI."""
    code = (
        "import sys, importlib.util as u\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('comfy', 'comfy_api', 'folder_paths'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import fourreal, fourreal.grid, fourreal.cameras, fourreal.gaussians, fourreal.weights\n"
        "import fourreal.attention, fourreal.reconstruction, fourreal.rendering\n"
        "heavy = {'diffusers', 'transformers', 'gsplat', 'flash_attn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"spec = u.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r})\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert callable(module.comfy_entrypoint)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_only_the_nodes_import_comfyui():
    for path in (ROOT / "fourreal").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        wrong = [line for line in lines if line.startswith(("import comfy", "from comfy"))]
        assert not wrong, (path, wrong)


def test_node_files_are_plain_ascii():
    """ComfyUI on Windows may read them in another code page."""
    for path in [ROOT / "__init__.py", *(ROOT / "nodes").glob("*.py")]:
        assert path.read_bytes().isascii(), path


# ----- on a real ComfyUI -----


@pytest.fixture(scope="module")
def pack():
    """The pack, imported beside a real ComfyUI on the CPU as ComfyUI imports it."""
    sys.path.insert(0, COMFYUI)
    from comfy.cli_args import args

    args.cpu = True
    spec = importlib.util.spec_from_file_location(
        "fourreal_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["fourreal_pack"] = module
    spec.loader.exec_module(module)
    importlib.import_module("fourreal_pack.nodes")
    return module


@pytest.fixture(params=["replace", "add"])
def weights(request, tmp_path, monkeypatch):
    write_random_weights(tmp_path, request.param)
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(tmp_path))
    return tmp_path


def diffusers_pipeline(folder: Path):
    from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

    from fourreal.video.block_autoencoder import BlockAutoencoder
    from fourreal.video.files import load_single_file, transformer_key
    from fourreal.video.pipeline import ViewTimePipeline
    from fourreal.video.text import load_text_encoder

    transformer, noted = load_single_file(
        WanTransformer3DModel, folder / "transformer.safetensors", transformer_key
    )
    vae, _ = load_single_file(
        BlockAutoencoder, folder / "autoencoder.safetensors", lambda key, _: key
    )
    tokenizer, encoder = load_text_encoder(folder / "text_encoder.safetensors")
    pipe = ViewTimePipeline(
        transformer, vae, encoder, tokenizer, FlowMatchEulerDiscreteScheduler(shift=3.0),
        conditioning=noted["conditioning"], max_frames=noted["max_frames"], max_tokens=32,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@needs_comfyui
@torch.inference_mode()
def test_sampling_in_comfyui_equals_the_diffusers_pipeline(pack, weights):
    import comfy.sample
    import comfy.samplers

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, vae, _ = nodes.LoadEmbeddedModels.execute().args
    prompt, unwanted = "a red ball bouncing past a blue box", "a green box"
    positive, negative = nodes.TextEncode.execute(clip, prompt, unwanted).args
    pipe = diffusers_pipeline(weights)
    assert torch.equal(positive[0][0][0, -1], torch.zeros(128))
    torch.testing.assert_close(positive[0][0], pipe.encode_prompt(prompt), atol=1e-5, rtol=0)

    views, frames, height, width, steps = 3, 5, 32, 48, 4
    generator = torch.Generator().manual_seed(1)
    exact = torch.rand(views, frames, 3, height, width, generator=generator)
    noise = torch.randn(views, CHANNELS, 2, height // 8, width // 8, generator=generator)
    pipe.scheduler.set_timesteps(steps)
    sigmas = pipe.scheduler.sigmas.clone()
    for references in ((), ("fixed_view",), ("freeze_time",), ("fixed_view", "freeze_time")):
        for guidance in (1.0, 4.0):
            given = {"fixed_view": exact[0], "freeze_time": exact[:, 0]}
            given = {name: given[name] for name in references}
            expected = pipe(
                prompt, unwanted, views, frames, height, width, num_inference_steps=steps,
                guidance_scale=guidance, latents=noise, output_type="latent", **given,
            ).frames  # fmt: skip
            latent = nodes.GridLatent.execute(
                views, frames, width, height, vae,
                **{name: images.movedim(1, -1) for name, images in given.items()},
            ).args[0]  # fmt: skip
            patched = nodes.ApplyViewTimeAttention.execute(model, latent, 1.0).args[0]
            sampled = comfy.sample.sample_custom(
                patched, noise, guidance, comfy.samplers.sampler_object("euler"), sigmas, positive,
                negative, latent["samples"], noise_mask=latent.get("noise_mask"), disable_pbar=True,
            )  # fmt: skip
            difference = (sampled - expected).abs().max().item()
            assert difference < 1e-4, (references, guidance, difference)
            decoded = vae.decode(sampled).flatten(0, 1)
            frames_expected = pipe.decode_views(expected).flatten(0, 1).movedim(1, -1)
            torch.testing.assert_close(decoded, frames_expected, atol=1e-4, rtol=0)


@needs_comfyui
@torch.inference_mode()
def test_without_view_strength_the_views_are_what_stock_sampling_gives(pack, weights):
    """And the patch leaves the MODEL that it was made from as it was."""
    import comfy.sample
    import comfy.samplers

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, vae, _ = nodes.LoadEmbeddedModels.execute().args
    positive, negative = nodes.TextEncode.execute(clip, "a red ball", "").args
    latent = nodes.GridLatent.execute(1, 9, 32, 32, vae).args[0]
    noise = torch.randn(1, CHANNELS, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def sample(model):
        return comfy.sample.sample_custom(
            model, noise, 4.0, comfy.samplers.sampler_object("euler"),
            torch.tensor([1.0, 0.7, 0.0]), positive, negative, latent["samples"], disable_pbar=True,
        )  # fmt: skip

    stock = sample(model)
    patched = nodes.ApplyViewTimeAttention.execute(model, latent, 1.0).args[0]
    torch.testing.assert_close(sample(patched), stock, atol=1e-4, rtol=0)
    assert torch.equal(sample(model), stock)


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_wrong_input_is_refused_in_one_sentence(pack, weights):
    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, vae, _ = nodes.LoadEmbeddedModels.execute().args
    image = torch.rand(5, 32, 32, 3)
    cases = [
        (lambda: nodes.TextEncode.execute(clip, "  ", ""), "prompt is empty"),
        (lambda: nodes.GridLatent.execute(2, 28, 32, 32), "use 25 or 29"),
        (lambda: nodes.GridLatent.execute(2, 5, 32, 100), "height is 100"),
        (lambda: nodes.GridLatent.execute(2, 9, 32, 32, vae, fixed_view=image), "9 frames"),
        (lambda: nodes.GridLatent.execute(2, 5, 32, 32, vae, freeze_time=image), "2 views"),
        (lambda: nodes.GridLatent.execute(2, 5, 32, 32, fixed_view=image), "connect the VAE"),
        (
            lambda: nodes.ApplyViewTimeAttention.execute(
                model, {"samples": torch.zeros(1, 4, 8, 8)}, 1.0
            ),
            "not a grid",
        ),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    (weights / "reconstructor.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks reconstructor\.safetensors"):
        nodes.LoadEmbeddedModels.execute()


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_known_cells_stay_the_references_and_other_overrides_keep_their_calls(pack, weights):
    """With stock sampling, a latent format that is not the identity, and another pack's patch."""
    import comfy.latent_formats
    import comfy.sample

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, vae, _ = nodes.LoadEmbeddedModels.execute().args
    model.model.latent_format = comfy.latent_formats.Wan21()
    positive, negative = nodes.TextEncode.execute(clip, "a red ball", "").args
    images = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    latent = nodes.GridLatent.execute(3, 9, 32, 32, vae, freeze_time=images).args[0]
    lengths = []

    def spy(function, q, k, v, *args, **options):
        lengths.append((q.shape[1], k.shape[1]))
        return function(q, k, v, *args, **options)

    other = model.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = spy
    patched = nodes.ApplyViewTimeAttention.execute(other, latent, 1.0).args[0]
    noise = comfy.sample.prepare_noise(latent["samples"], 0)
    out = comfy.sample.sample(
        patched, noise, 2, 1.0, "euler", "simple", positive, negative, latent["samples"],
        noise_mask=latent["noise_mask"], disable_pbar=True,
    )  # fmt: skip
    torch.testing.assert_close(out[:, :, 0], latent["samples"][:, :, 0], atol=1e-4, rtol=0)
    assert (out[:, :, 1:] - latent["samples"][:, :, 1:]).abs().mean() > 0.1
    # Two steps of two blocks, cross-attention only: 3 x 3 frames of 2 x 2 tokens, 32 words.
    assert lengths == [(36, 32)] * 4


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_a_lora_of_the_stock_loader_changes_the_grid_and_leaves_the_model(pack, weights):
    import comfy.sample
    import comfy.sd

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, _, _ = nodes.LoadEmbeddedModels.execute().args
    positive, negative = nodes.TextEncode.execute(clip, "a red ball", "").args
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]  # no VAE: fitted by the sampler
    key = "diffusion_model.blocks.0.self_attn.q"
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"{key}.lora_down.weight": torch.randn(4, 256, generator=generator) / 16,
        f"{key}.lora_up.weight": torch.randn(256, 4, generator=generator),
    }
    changed, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)

    def sample(model):
        return nodes.ViewTimeSampler.execute(
            model, positive, negative, latent, 7, 2, 2.0, "euler", "simple", 1.0
        ).args[0]["samples"]

    before, with_lora = sample(model), sample(changed)
    assert before.shape == (2, CHANNELS, 2, 4, 4)
    assert (with_lora - before).abs().max() > 1e-3
    assert torch.equal(sample(model), before)


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_cancel_stops_a_reconstruction_and_the_next_one_works(pack, weights):
    import comfy.model_management as management

    nodes = sys.modules["fourreal_pack.nodes"]
    reconstructor = nodes.LoadEmbeddedModels.execute().args[3]
    images = torch.rand(2 * 5, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        nodes.Reconstruct.execute(reconstructor, images, 2, 8.0)
    scene, depth, extrinsics, intrinsics = nodes.Reconstruct.execute(
        reconstructor, images, 2, 8.0
    ).args
    assert depth.shape == (10, 64, 64, 3)
    assert extrinsics.shape == (2, 4, 4) and intrinsics.shape == (2, 3, 3)
    held = sum(tensor.nbytes for tensor in scene._comfy_cache_tensors())
    gaussians = len(scene.static) + sum(len(part) for part in scene.dynamic)
    assert gaussians and held == gaussians * (3 + 4 + 3 + 1 + 3) * 4


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_the_preview_shows_the_mean_colour_of_every_cell(pack, weights):
    """Of a video that is smooth enough to be exact under the autoencoder."""
    nodes = sys.modules["fourreal_pack.nodes"]
    model, _, vae, _ = nodes.LoadEmbeddedModels.execute().args
    preview = sys.modules["fourreal_pack.nodes.sampling"].grid_preview
    generator = torch.Generator().manual_seed(3)
    latents = 0.1 * torch.randn(2, CHANNELS, 3, 4, 4, generator=generator)
    videos = vae.decode(latents)  # [V, T, H, W, 3]
    image = preview(latents, model.get_model_object("latent_format"))
    pixels = torch.from_numpy(np.array(image)).float() / 255
    factor = image.width // 12
    pixels = pixels[::factor, ::factor].unflatten(0, (2, 4)).unflatten(2, (3, 4))  # [V, h, F, w, 3]
    blocks = videos.unflatten(3, (4, 8)).unflatten(2, (4, 8)).mean(dim=(3, 5))  # [V, T, h, w, 3]
    first, rest = blocks[:, :1], blocks[:, 1:].unflatten(1, (2, 4)).mean(dim=2)
    expected = torch.cat([first, rest], dim=1).transpose(1, 2)
    torch.testing.assert_close(pixels, expected, atol=0.02, rtol=0)


@needs_comfyui
@torch.inference_mode()
def test_core_renders_the_splat_of_a_scene_upright_and_in_the_same_place(pack):
    from comfy_extras.nodes_gaussian_splat import RenderSplat

    from fourreal.cameras import pixel_intrinsics
    from fourreal.gaussians import Gaussians, rgb_to_harmonics

    nodes = sys.modules["fourreal_pack.nodes"]
    colours = torch.eye(3)
    moving = Gaussians(
        torch.tensor([[-0.4, -0.5, 2.0], [0.5, 0.3, 3.0], [0.1, 0.4, 1.5]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.9, 0.0, 0.0, 0.4], [0.8, 0.6, 0.0, 0.0]]),
        torch.tensor([[0.2, 0.05, 0.05]] * 3),
        torch.full((3,), 0.95),
        rgb_to_harmonics(colours),
    )
    intrinsics = pixel_intrinsics(torch.deg2rad(torch.tensor([60.0])), 64, 64)
    scene = nodes.scene.CachedScene(
        Gaussians.empty(), [moving], torch.eye(4)[None, :3], intrinsics, 64, 64
    )
    path = nodes.CameraPathNode.execute(scene, "fixed_view", 1, 0).args[0]
    ours = nodes.RenderSplats.execute(scene, path, 0, 0, "#000000").args[0][0]
    origin = {"x": 0.0, "y": 0.0, "z": 0.0}
    camera = {
        "position": origin, "target": origin | {"z": -1.0}, "quaternion": origin | {"w": 1.0},
        "fov": 60.0, "zoom": 1.0, "cameraType": "perspective",
    }  # fmt: skip
    splat = nodes.SceneToSplat.execute(scene, -1).args[0]
    core = RenderSplat.execute(
        splat, 64, 64, 1, 1.0, 1.0, 0.0, 0.0, "color", "#000000", camera_info=camera
    ).args[0][0]
    position = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))
    for channel in range(3):  # one Gaussian each
        centres = [
            (position * image[..., channel]).sum((1, 2)) / image[..., channel].sum()
            for image in (ours, core)
        ]
        # Core puts pixel centres at whole numbers (cx.round() with cx0 = width / 2), half a
        # pixel beside gsplat's and ours.
        assert (centres[1] - centres[0] - 0.5).abs().max() < 0.3, centres


@needs_comfyui
def test_the_pack_finds_its_library_when_it_is_not_installed(tmp_path):
    """As after a git clone into custom_nodes, under any folder name."""
    copy_pack(tmp_path / "4real-renamed.1")
    code = (
        "import sys, importlib.util as u\n"
        f"sys.path[:] = [{COMFYUI!r}] + [p for p in sys.path if p not in ('', {str(ROOT)!r})]\n"
        "sys.meta_path[:] = [m for m in sys.meta_path if '__editable__' not in repr(m)]\n"
        "assert u.find_spec('fourreal') is None\n"
        "from comfy.cli_args import args; args.cpu = True\n"
        f"folder = {str(tmp_path / '4real-renamed.1')!r}\n"
        "spec = u.spec_from_file_location('p_x_', folder + '/__init__.py', "
        "submodule_search_locations=[folder])\n"
        "sys.modules['p_x_'] = module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "import asyncio\n"
        "extension = asyncio.run(module.comfy_entrypoint())\n"
        "found = asyncio.run(extension.get_node_list())\n"
        "schemas = [node.GET_SCHEMA() for node in found]\n"
        "assert all(s.description and s.category == '4Real' for s in schemas)\n"
        "assert all(i.tooltip for s in schemas for i in s.inputs)\n"
        "import fourreal\n"
        "assert fourreal.__file__.startswith(folder), fourreal.__file__\n"
        "heavy = {'diffusers', 'gsplat', 'flash_attn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def copy_pack(folder: Path) -> None:
    ignored = shutil.ignore_patterns("out", "build", "__pycache__", "tests", ".*")
    shutil.copytree(ROOT, folder, ignore=ignored)


class Server:
    """A real ComfyUI server on the CPU with the pack in its custom_nodes."""

    def __init__(self, base: Path):
        self.base, self.log = base, base / "server.log"
        for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True)
        self.pack = base / "custom_nodes" / "4real"
        copy_pack(self.pack)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "main.py", "--cpu", "--port", str(port), "--base-directory"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, str(base), "--disable-api-nodes"],
                cwd=COMFYUI, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

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
            time.sleep(0.5)

    def run(self, prompt: dict, seconds: float = 900) -> None:
        queued = self.ask("/prompt", {"prompt": prompt})
        assert not queued["node_errors"]
        name = queued["prompt_id"]
        status = self.wait_for(lambda: self.ask(f"/history/{name}"), seconds)[name]["status"]
        assert status["status_str"] == "success", status["messages"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    from fourreal.weights import folder

    if not (folder() / "transformer.safetensors").is_file():
        write_random_weights(tmp_path / "weights")
        monkeypatch.setenv("FOURREAL_WEIGHTS", str(tmp_path / "weights"))
    server = Server(tmp_path / "base")
    yield server
    server.process.terminate()
    server.process.wait(30)


@needs_comfyui
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_on_a_real_server_and_its_results_chain_with_stock_nodes(path, server):
    from fourreal.formats import load_ply_sequence, load_scene
    from fourreal.rendering.video import read_image, read_video

    info = server.wait_for(lambda: server.ask("/object_info"), 180)
    about_pack = [li for li in server.log.read_text().splitlines() if str(server.pack) in li]
    assert about_pack and not [li for li in about_pack if "FAILED" in li or "Cannot" in li]
    workflow = json.loads(path.read_text())
    prompt = to_api(workflow, info)
    server.run(prompt)
    output = server.base / "output"
    frames, fps = read_video(next(output.glob("video/4real_orbit*.mp4")))
    assert frames.shape == (58, 3, 256, 256) and fps == 8
    frames, fps = read_video(next(output.glob("video/4real_grid*.mp4")))
    assert len(frames) == 29 and fps == 8

    node = {n["type"]: str(n["id"]) for n in workflow["nodes"]}
    images, scene = [node["VAEDecode"], 0], [node["FourReal_Reconstruct"], 0]
    loader, text = node["FourReal_LoadEmbeddedModels"], node["FourReal_TextEncode"]
    used = (loader, text, *(node[f"FourReal_{n}"] for n in ("GridLatent", "ViewTimeSampler",
            "Reconstruct")), node["VAEDecode"])  # fmt: skip
    more = {name: prompt[name] for name in used}

    def add(name: str, kind: str, /, **inputs) -> None:
        more[name] = {"class_type": kind, "inputs": inputs}

    add("row", "FourReal_PickView", images=images, num_views=8, view=0)
    add("column", "FourReal_PickTime", images=images, num_views=8, time=0)
    add("grid", "FourReal_GridLatent", vae=[loader, 2], fixed_view=["row", 0],
        freeze_time=["column", 0], num_views=8, num_frames=29, width=64, height=64)  # fmt: skip
    add("patch", "FourReal_ApplyViewTimeAttention", model=[loader, 0], latent=["grid", 0],
        view_strength=1.0)  # fmt: skip
    add("sample", "KSampler", model=["patch", 0], seed=0, steps=2, cfg=1.0, sampler_name="euler",
        scheduler="simple", positive=[text, 0], negative=[text, 1], latent_image=["grid", 0],
        denoise=1.0)  # fmt: skip
    add("decode", "VAEDecode", samples=["sample", 0], vae=[loader, 2])
    add("again", "FourReal_PickView", images=["decode", 0], num_views=8, view=0)
    add("pair", "FourReal_AssembleGrid", **{"views.view0": ["row", 0], "views.view1": ["again", 0]})
    add("sheet", "FourReal_ContactSheet", images=["pair", 0], num_views=["pair", 1], max_times=29)
    add("saved", "SaveImage", images=["sheet", 0], filename_prefix="pair")
    add("splat", "FourReal_SceneToSplat", scene=scene, time=-1)
    add("core", "RenderSplat", splat=["splat", 0], width=64, height=64, frames=1, splat_scale=1.0,
        sharpen=1.0, headlight_shading=0.0, opacity_threshold=0.0, render_style="color",
        background="#000000")  # fmt: skip
    add("seen", "SaveImage", images=["core", 0], filename_prefix="core")
    add("keep", "FourReal_SaveScene", scene=scene, filename_prefix="4real/scene", ply_sequence=True)
    server.run(more)
    # The first view was known, so it comes back as it was given, but for the autoencoder.
    pair = read_image(next(output.glob("pair*.png")))
    assert (pair[:, :64] - pair[:, 66:]).abs().mean() < 0.02
    assert len(list(output.glob("core*.png"))) == 29
    stored = output / "4real" / "scene_00001_.safetensors"
    kept = load_scene(stored)
    assert kept.num_frames == 29 and kept.num_views == 8
    sequence = load_ply_sequence(stored.with_suffix(""))
    assert [len(g) for g in sequence] == [len(kept.at(t)) for t in range(29)]

    more = {}
    add("load", "FourReal_LoadScene", scene_file="4real/scene_00001_.safetensors [output]")
    add("path", "FourReal_CameraPath", scene=["load", 0], kind="fixed_view", frames=2, freeze_at=0)
    add("render", "FourReal_RenderSplats", scene=["load", 0], camera_path=["path", 0], width=0,
        height=0, background="#ffffff")  # fmt: skip
    add("seen", "SaveImage", images=["render", 0], filename_prefix="loaded")
    server.run(more)
    assert read_image(next(output.glob("loaded*.png"))).shape == (3, 64, 64)
