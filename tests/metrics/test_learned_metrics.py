"""Networks of other projects as judges: what is handed to them, and what comes of their answers."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fourreal.cli import main
from fourreal.evaluation import evaluate_video as video
from fourreal.metrics import lpips as perceptual
from fourreal.metrics.learned import Learned, LearnedMetrics
from fourreal.scenes import make_scene, scene_seed


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP model with random weights, as transformers writes it."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    folder = tmp_path_factory.mktemp("clip")
    words = ["<|startoftext|>", "<|endoftext|>", "r", "e", "d</w>", "re", "red</w>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    torch.manual_seed(0)
    text = {**small, "num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 8}
    seen = {**small, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    text |= {"bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config=seen, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(
        CLIPImageProcessor(**sizes), CLIPTokenizer.from_pretrained(folder)
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def others(monkeypatch):
    """Stand-ins for the packages cd-fvd and met3r with their interfaces."""
    seen = SimpleNamespace(fvd={}, pairs=[])

    class Fvd:
        def __init__(self, model, n_real="full", n_fake=2048, ckpt_path=None, device="cuda"):
            assert (model, n_fake) == ("i3d", "full") and ckpt_path.endswith("i3d.pt")
            self.real, self.fake = [], []

        def add_real_stats(self, videos):
            self.real.append(videos)

        def add_fake_stats(self, videos):
            self.fake.append(videos)

        def compute_fvd_from_stats(self):
            real, fake = np.concatenate(self.real), np.concatenate(self.fake)
            assert real.dtype == np.uint8 and real.shape == fake.shape
            seen.fvd[len(seen.fvd)] = real.shape
            return np.float64(np.abs(real.astype(float) - fake).mean())

    class MEt3R(torch.nn.Module):
        def __init__(self, img_size=256):
            super().__init__()

        def forward(self, images):
            seen.pairs.append(images)
            return (images[:, 0] - images[:, 1]).abs().mean((1, 2, 3)), None

    monkeypatch.setitem(sys.modules, "cdfvd", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cdfvd.fvd", SimpleNamespace(cdfvd=Fvd))
    monkeypatch.setitem(sys.modules, "met3r", SimpleNamespace(MEt3R=MEt3R))
    return seen


def test_lpips_is_the_mean_of_all_images(monkeypatch, tmp_path):
    monkeypatch.setattr(
        perceptual, "Lpips", lambda path: SimpleNamespace(to=lambda _: lambda a, b: (a - b).mean())
    )
    (tmp_path / "vgg.pth").touch()
    learned = Learned(LearnedMetrics(lpips=tmp_path / "vgg.pth"))
    a, b = torch.rand(2, 5, 9, 3, 16, 16)  # 45 images: batches of 32 and 13
    assert learned.likeness(a, b)["lpips"] == pytest.approx(float((a - b).mean()), abs=1e-6)


def test_the_clip_score_is_a_hundred_cosines(clip):
    learned = Learned(LearnedMetrics(clip=clip))
    frames = torch.rand(2, 2, 3, 40, 40)
    found = learned.prompt(frames, "red")["clip_score"]
    inputs = learned.processor(
        text=["red"],
        images=list((frames.flatten(0, 1) * 255).round().byte()),
        return_tensors="pt",
    )
    with torch.no_grad():  # second source: the model's own logits
        logits = learned.clip(**inputs).logits_per_image / learned.clip.logit_scale.exp()
    assert found == pytest.approx(100 * float(logits.clamp_min(0).mean()), abs=1e-3)


def test_what_was_not_asked_for_is_not_scored(clip):
    learned = Learned(LearnedMetrics())
    frames = torch.rand(2, 3, 3, 16, 16)
    learned.watch("both", frames, frames)
    assert learned.likeness(frames, frames) == learned.views(frames) == learned.of_all() == {}
    assert learned.prompt(frames, "red") == {}


def test_neighbouring_views_are_compared(others):
    frames = torch.rand(3, 4, 3, 16, 16)
    found = Learned(LearnedMetrics(met3r=True)).views(frames)["met3r"]
    assert found == pytest.approx(float(2 * frames.diff(dim=0).abs().mean()), abs=1e-5)
    pairs = torch.cat(others.pairs)
    assert pairs.shape == (8, 2, 3, 16, 16) and pairs.min() < -0.9 and pairs.max() > 0.9


def test_videoscore_is_asked_with_its_own_words(monkeypatch, tmp_path):
    asked = []

    class Model(torch.nn.Module):
        @classmethod
        def from_pretrained(cls, folder, torch_dtype, local_files_only):
            assert folder == tmp_path and local_files_only
            return cls()

        def forward(self, images):
            return SimpleNamespace(logits=images[None, :5])

    def reader(text, images, return_tensors):
        asked.append((text, images))
        return {"images": torch.tensor([float(np.asarray(i).mean()) for i in images])}

    monkeypatch.setitem(sys.modules, "mantis", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mantis.models", SimpleNamespace())
    idefics = SimpleNamespace(Idefics2ForSequenceClassification=Model)
    monkeypatch.setitem(sys.modules, "mantis.models.idefics2", idefics)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda *a, **k: reader)
    learned = Learned(LearnedMetrics(videoscore=tmp_path))
    frames = torch.linspace(0, 1, 60)[:, None, None, None].expand(-1, 3, 16, 24)
    found = learned.video(frames, "a red ball")
    (text, images), *_ = asked
    assert len(images) == 48 == text.count("<image>") and 'prompt is "a red ball"' in text
    assert images[0].size == (24, 16)
    assert list(found) == [
        f"videoscore_{a}" for a in ("visual", "temporal", "dynamic", "alignment", "factual")
    ]
    assert list(found.values()) == sorted(found.values()) and found["videoscore_visual"] == 0


def test_the_evaluations_ask_the_judges(others, monkeypatch, tmp_path, capsys):
    exact = make_scene(scene_seed("validation", 0), 3, 5, 32, 32).frames
    monkeypatch.setattr(
        video, "video_model", lambda *_: lambda *a, **k: SimpleNamespace(frames=exact.flip(0))
    )
    (tmp_path / "i3d.pt").touch()
    options = {"scenes": 1, "num_views": 3, "num_frames": 5, "height": 32, "width": 32}
    config = video.VideoEvaluation(
        **options,
        split="validation",
        references=("both",),
        fvd=tmp_path / "i3d.pt",
        met3r=True,
        out=tmp_path / "scores.json",
    )
    scores = video.evaluate_video(config)["scores"]
    difference = (exact.flip(0)[1:] - exact[1:]).abs().mean() * 255
    assert scores["both/fvd"]["mean"] == pytest.approx(float(difference), abs=0.6)
    assert scores["both/fvd"]["interval"] is None and others.fvd == {0: (2, 5, 32, 32, 3)}
    assert scores["both/generated/met3r"]["mean"] > 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("| both/fvd"))
    assert "±" not in line
    assert (
        json.loads((tmp_path / "scores.json").read_text())["scores"]["both/fvd"]
        == scores["both/fvd"]
    )


def test_a_judge_that_is_not_there_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "met3r", None)
    for wrong, words in (
        (["--met3r"], "--met3r needs the package met3r"),
        (["--fvd", str(tmp_path / "no.pt")], "no.pt does not exist"),
    ):
        assert main(["evaluate", "video", "--scenes", "1", *wrong]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
