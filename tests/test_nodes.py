"""The ComfyUI pack: its workflow files, and on a real ComfyUI where COMFYUI_PATH is set to one."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = os.environ.get("COMFYUI_PATH")
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
STOCK_NODES = {"CreateVideo", "PreviewImage", "SaveVideo", "VAEDecode"}
NOTES = {"Note", "MarkdownNote"}
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
                "INT", "FLOAT", "STRING", "BOOLEAN", "COMBO",
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
    transformer = build_transformer(VideoConfig(layers=2), 48)
    save_single_file(transformer, folder / "transformer.safetensors", transformer_key, noted)
    tokenizer = build_tokenizer(caption_words())
    encoder = build_text_encoder(len(tokenizer))
    save_text_encoder(encoder, tokenizer, folder / "text_encoder.safetensors")
    autoencoder = BlockAutoencoder()
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
    noise = torch.randn(views, 48, 2, height // 8, width // 8, generator=generator)
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
    noise = torch.randn(1, 48, 3, 4, 4, generator=torch.Generator().manual_seed(0))

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
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_on_a_real_server(path, tmp_path):
    from fourreal.rendering.video import read_video
    from fourreal.weights import folder

    environment = dict(os.environ)
    if not (folder() / "transformer.safetensors").is_file():
        write_random_weights(tmp_path / "weights")
        environment["FOURREAL_WEIGHTS"] = str(tmp_path / "weights")
    base = tmp_path / "base"
    for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True)
    installed = base / "custom_nodes" / "4real"
    ignored = shutil.ignore_patterns(".git", "out", "__pycache__", "tests", ".*")
    shutil.copytree(ROOT, installed, ignore=ignored)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "server.log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "main.py", "--cpu", "--port", str(port), "--base-directory", str(base),
             "--disable-api-nodes"],
            cwd=COMFYUI, env=environment, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        run_workflow(path, f"http://127.0.0.1:{port}", server, log)
    finally:
        server.terminate()
        server.wait(30)
    frames, fps = read_video(next(base.glob("output/video/4real_orbit*.mp4")))
    assert frames.shape == (58, 3, 256, 256) and fps == 8
    frames, fps = read_video(next(base.glob("output/video/4real_grid*.mp4")))
    assert len(frames) == 29 and fps == 8
    about_pack = [line for line in log.read_text().splitlines() if str(installed) in line]
    assert about_pack and not [line for line in about_pack if "FAILED" in line or "Cannot" in line]


def run_workflow(path: Path, url: str, server, log: Path, limit: float = 900) -> None:
    """Queue a workflow and wait until it is done; fails with the server's own words."""

    def ask(route: str, data: dict | None = None) -> dict:
        body = json.dumps(data).encode() if data is not None else None
        request = urllib.request.Request(url + route, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    end = time.monotonic() + limit
    info = None
    while info is None:
        assert server.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
        try:
            info = ask("/object_info")
        except OSError:
            time.sleep(1)
    workflow = json.loads(path.read_text())
    missing = {n["type"] for n in workflow["nodes"]} - NOTES - set(info)
    assert not missing, (missing, log.read_text()[-4000:])
    queued = ask("/prompt", {"prompt": to_api(workflow, info)})
    assert not queued["node_errors"]
    while True:
        assert server.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
        history = ask(f"/history/{queued['prompt_id']}")
        if history:
            status = history[queued["prompt_id"]]["status"]
            assert status["status_str"] == "success", status["messages"]
            return
        time.sleep(1)
