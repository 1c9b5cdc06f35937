"""The workflow files: sound in themselves, and executed by a real ComfyUI server on the CPU.

The server runs where COMFYUI_PATH is set to a checkout. Models are untrained and tiny, in the files
and layouts that the workflows name; sizes and steps are lowered, the graphs are as they are.
"""

import io
import json
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

from .test_nodes import COMFYUI, ROOT, copy_pack, needs_comfyui, write_random_weights

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINT = ROOT / "subgraphs" / "Text to 4D (4Real).json"
NOTES = {"Note", "MarkdownNote"}
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
FRAMES, PATH_FRAMES, SIZE = 5, 6, 64
SMALLER = {
    "steps": 2, "num_frames": FRAMES, "length": FRAMES, "frames": PATH_FRAMES,
    "width": SIZE, "height": SIZE,
}  # fmt: skip


def to_api(workflow: dict, object_info: dict) -> dict:
    """A workflow in the editor's format as the prompt that the editor would queue."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        inputs = {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"]}
        values = iter(node.get("widgets_values", []))
        schema = object_info[node["type"]]["input"]
        for name, (kind, *options) in (
            schema.get("required", {}) | schema.get("optional", {})
        ).items():
            options = options[0] if options else {}
            if isinstance(kind, list) or kind in WIDGETS:
                inputs.setdefault(name, next(values))
                # The editor puts a widget of its own after these.
                if options.keys() & {"control_after_generate", "image_upload", "video_upload"}:
                    next(values)
        assert next(values, None) is None, f"{node['type']} has more values than widgets"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def smaller(prompt: dict) -> dict:
    """The prompt with few steps, frames and pixels where the workflow's file sets them."""
    for node in prompt.values():
        for name, value in SMALLER.items():
            given = node["inputs"].get(name)
            if isinstance(given, int) and given > value:
                node["inputs"][name] = value
    return prompt


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_links_existing_slots_and_has_a_note_and_a_thumbnail(path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "nodes").glob("*.py"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"]) <= workflow["last_node_id"]
    for node in nodes.values():
        ours = node["type"].startswith("FourReal_")
        assert not ours or f'node_id="{node["type"]}"' in source, node["type"]
    assert any(node["type"] in NOTES for node in nodes.values())
    seen = set()
    for link, start, output, end, slot, kind in workflow["links"]:
        assert link not in seen
        seen.add(link)
        assert link in nodes[start]["outputs"][output]["links"]
        assert nodes[end]["inputs"][slot]["link"] == link
        assert nodes[start]["outputs"][output]["type"] == kind
        assert kind in nodes[end]["inputs"][slot]["type"].split(",")
    used = {i["link"] for node in nodes.values() for i in node["inputs"] if i["link"]}
    assert used == seen
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert max(picture.size) <= 512


def test_models_that_a_workflow_names_can_be_downloaded_into_their_folder():
    found = 0
    for path in WORKFLOWS:
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            for model in node["properties"].get("models", []):
                found += 1
                assert model["name"] in node["widgets_values"]
                assert model["url"].startswith("https://huggingface.co/")
                assert model["url"].endswith(".safetensors")
                assert model["directory"] in (
                    "diffusion_models", "text_encoders", "vae", "geometry_estimation",
                )  # fmt: skip
    assert found == 8


# ----- on a real server -----


def write_model_files(models: Path) -> None:
    """Tiny files under the names of the downloads, but for the VAEs (see tiny_wan_pack.py)."""
    import sentencepiece
    from diffusers import WanTransformer3DModel
    from safetensors.torch import save_file
    from transformers import UMT5Config, UMT5EncoderModel

    from fourreal.video.files import transformer_key

    from .test_reconstruction import tiny_model

    def save(tensors: dict, place: str, key=lambda k: k) -> None:
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        save_file({key(k): v.half().contiguous() for k, v in tensors.items()}, models / place)

    torch.manual_seed(0)
    for name, channels in (("wan2.1_t2v_1.3B_fp16", 16), ("wan2.2_ti2v_5B_fp16", 48)):
        network = WanTransformer3DModel(
            num_attention_heads=1, attention_head_dim=128, in_channels=channels,
            out_channels=channels, text_dim=4096, ffn_dim=128, num_layers=2,
        )  # fmt: skip
        save(
            network.state_dict(), f"diffusion_models/{name}.safetensors",
            lambda key: transformer_key(key, True),
        )  # fmt: skip
    config = UMT5Config(
        vocab_size=256, d_model=4096, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
        is_encoder_decoder=False,
    )  # fmt: skip
    text = UMT5EncoderModel(config).state_dict()
    text.pop("encoder.embed_tokens.weight")
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a corgi shakes off water", "blurry, low quality"] * 20),
        model_writer=pieces, vocab_size=256, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, minloglevel=2,
    )  # fmt: skip
    # By this tensor's shape ComfyUI knows a UMT5-XXL.
    text["encoder.block.23.layer.1.DenseReluDense.wi_1.weight"] = torch.zeros(10240, 1)
    place = "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    save(text, place)
    text = {k: v.half() for k, v in text.items()}
    text["spiece_model"] = torch.frombuffer(bytearray(pieces.getvalue()), dtype=torch.uint8)
    save_file(text, models / place)
    vggt = tiny_model(temporal="none", gaussian_head="none")
    save(vggt.state_dict(), "geometry_estimation/vggt_1b.safetensors")


class Server:
    """A real ComfyUI server on the CPU with the pack in its custom_nodes."""

    def __init__(self, base: Path, weights: Path):
        import os

        self.base, self.log = base, base / "server.log"
        for name in ("custom_nodes/tiny_wan", "models", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True)
        self.pack = base / "custom_nodes" / "4real"
        copy_pack(self.pack)
        shutil.copy(Path(__file__).with_name("tiny_wan_pack.py"),
                    base / "custom_nodes" / "tiny_wan" / "__init__.py")  # fmt: skip
        write_model_files(base / "models")
        for view in range(8):
            Image.new("RGB", (96, 72), (30 * view, 80, 200)).save(base / f"input/view_{view}.jpg")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "main.py", "--cpu", "--port", str(port), "--base-directory"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, str(base), "--disable-api-nodes"], cwd=COMFYUI, stdout=log,
                stderr=subprocess.STDOUT, env=os.environ | {"FOURREAL_WEIGHTS": str(weights)},
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
            time.sleep(0.2)

    def run(self, prompt: dict, seconds: float = 600) -> dict:
        """Execute a prompt and give what its output nodes reported, by node id."""
        queued = self.ask("/prompt", {"prompt": prompt})
        assert not queued["node_errors"]
        name = queued["prompt_id"]
        done = self.wait_for(lambda: self.ask(f"/history/{name}"), seconds)[name]
        assert done["status"]["status_str"] == "success", done["status"]["messages"]
        return done["outputs"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    write_random_weights(folder / "weights")
    server = Server(folder / "base", folder / "weights")
    yield server
    server.process.terminate()
    server.process.wait(30)


@pytest.fixture(scope="module")
def info(server):
    return server.wait_for(lambda: server.ask("/object_info"), 300)


@needs_comfyui
def test_the_server_imports_the_pack_without_a_word(server, info):
    """And finds its workflows, help pages, translations and blueprints."""
    lines = [li for li in server.log.read_text().splitlines() if str(server.pack) in li]
    assert len(lines) == 1 and "seconds: " in lines[0] and "FAILED" not in lines[0], lines
    ours = {name for name in info if name.startswith("FourReal_")}
    assert set(server.ask("/workflow_templates")["4real"]) == {p.stem for p in WORKFLOWS}
    assert ours <= server.ask("/i18n")["en"]["nodeDefs"].keys()
    blueprints = server.ask("/global_subgraphs").values()
    assert BLUEPRINT.stem in {b["name"] for b in blueprints if "4real" in b["info"]["node_pack"]}
    for name in ours:
        page = urllib.request.urlopen(f"{server.url}/extensions/4real/docs/{name}.md").read()
        assert info[name]["display_name"] in page.decode()


@needs_comfyui
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_to_all_its_outputs(path, server, info):
    from fourreal.rendering.video import read_video

    prompt = smaller(to_api(json.loads(path.read_text(encoding="utf-8")), info))
    outputs = server.run(prompt)
    ends = {i for i, node in prompt.items() if info[node["class_type"]]["output_node"]}
    assert ends and ends <= outputs.keys() | {
        i for i, node in prompt.items() if node["class_type"] == "FourReal_SaveScene"
    }
    videos = [i for i, node in prompt.items() if node["class_type"] == "SaveVideo"]
    assert videos
    for i in videos:
        (saved,) = outputs[i]["images"]
        frames, _ = read_video(server.base / "output" / saved["subfolder"] / saved["filename"])
        assert len(frames) in (FRAMES, PATH_FRAMES, 3 * PATH_FRAMES)


@needs_comfyui
def test_the_blueprint_runs_as_its_editor_would_expand_it(server, info):
    workflow = json.loads(BLUEPRINT.read_text(encoding="utf-8"))
    (outer,), (inner,) = workflow["nodes"], workflow["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"]
    for side in ("inputs", "outputs"):
        assert [s["name"] for s in outer[side]] == [s["name"] for s in inner[side]]
    links = {link["id"]: list(link.values()) for link in inner["links"]}
    for node in inner["nodes"]:
        for given in node["inputs"]:
            if given["link"] and links[given["link"]][1] == -10:
                given["link"] = None  # the node's own value is the default
    prompt = smaller(to_api({"nodes": inner["nodes"], "links": links.values()}, info))
    for slot, name in enumerate(s["name"] for s in inner["outputs"]):
        (origin,) = (k[1:3] for k in links.values() if k[3] == -20 and k[4] == slot)
        prompt[name] = {
            "class_type": "PreviewAny",
            "inputs": {"source": [str(origin[0]), origin[1]]},
        }
    assert server.run(prompt).keys() >= {"images", "SCENE", "video"}


@needs_comfyui
def test_results_chain_with_stock_nodes_and_scenes_are_saved_and_loaded(server, info):
    from fourreal.formats import load_ply_sequence, load_scene
    from fourreal.rendering.video import read_image

    output, prompt = server.base / "output", {}

    def add(name: str, kind: str, /, **inputs) -> None:
        prompt[name] = {"class_type": kind, "inputs": inputs}

    grid = {"num_views": 3, "num_frames": 5, "width": 64, "height": 64}
    add("models", "FourReal_LoadEmbeddedModels")
    add("scene", "FourReal_ExampleScene", seed=0, **grid)
    add("text", "FourReal_TextEncode", clip=["models", 1], prompt=["scene", 1], negative="")
    add("row", "FourReal_PickView", images=["scene", 0], num_views=3, view=0)
    add("column", "FourReal_PickTime", images=["scene", 0], num_views=3, time=0)
    add("grid", "FourReal_GridLatent", vae=["models", 2], fixed_view=["row", 0],
        freeze_time=["column", 0], **grid)  # fmt: skip
    add("patch", "FourReal_ApplyViewTimeAttention", model=["models", 0], latent=["grid", 0],
        view_strength=1.0)  # fmt: skip
    add("sample", "KSampler", model=["patch", 0], seed=0, steps=2, cfg=1.0, sampler_name="euler",
        scheduler="simple", positive=["text", 0], negative=["text", 1], latent_image=["grid", 0],
        denoise=1.0)  # fmt: skip
    add("decode", "VAEDecode", samples=["sample", 0], vae=["models", 2])
    add("coded", "VAEEncode", pixels=["row", 0], vae=["models", 2])
    add("again", "VAEDecode", samples=["coded", 0], vae=["models", 2])
    add("first", "FourReal_PickView", images=["decode", 0], num_views=3, view=0)
    add("pair", "FourReal_AssembleGrid",
        **{"views.view0": ["again", 0], "views.view1": ["first", 0]})  # fmt: skip
    add("sheet", "FourReal_ContactSheet", images=["pair", 0], num_views=["pair", 1], max_times=5)
    add("saved", "SaveImage", images=["sheet", 0], filename_prefix="pair")
    add("splats", "FourReal_Reconstruct", reconstructor=["models", 3], images=["scene", 0],
        num_views=3, fps=8.0, cameras="first", shared_intrinsics=True, resolution=0,
        confidence_percentile=10.0, min_opacity=0.0, voxel_size=1.0, store_static_once=True,
        extrinsics=["scene", 2], intrinsics=["scene", 3])  # fmt: skip
    add("keep", "FourReal_SaveScene", scene=["splats", 0], filename_prefix="4real/scene",
        ply_sequence=True)  # fmt: skip
    server.run(prompt)
    # The first view was known, so it comes back as it was coded.
    pair = read_image(next(output.glob("pair*.png")))
    assert (pair[:, :64] - pair[:, 66:]).abs().max() < 0.02
    stored = sorted(output.glob("4real/scene_*_.safetensors"))[-1]
    kept = load_scene(stored)
    assert kept.num_frames == 5 and kept.num_views == 3
    sequence = load_ply_sequence(stored.with_suffix(""))
    assert [len(g) for g in sequence] == [len(kept.at(t)) for t in range(5)]

    prompt.clear()
    add("load", "FourReal_LoadScene", scene_file=f"4real/{stored.name} [output]")
    add("path", "FourReal_CameraPath", scene=["load", 0], kind="fixed_view", frames=2, freeze_at=0,
        time="auto")  # fmt: skip
    add("render", "FourReal_RenderSplats", scene=["load", 0], camera_path=["path", 0], width=0,
        height=0, background="#ffffff", fps=0.0)  # fmt: skip
    add("seen", "SaveImage", images=["render", 0], filename_prefix="loaded")
    server.run(prompt)
    assert read_image(next(output.glob("loaded*.png"))).shape == (3, 64, 64)


@needs_comfyui
def test_wrong_values_are_refused_on_their_node_before_anything_runs(server, info):
    prompt = {"1": {"class_type": "FourReal_GridLatent", "inputs": {
        "num_views": 2, "num_frames": 28, "width": 64, "height": 64}}}  # fmt: skip
    prompt["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    with pytest.raises(AssertionError, match=r"num_frames is 28.*use 25 or 29"):
        server.run(prompt)
