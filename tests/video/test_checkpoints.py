"""Public checkpoints: full-size key lists on the meta device, tiny random files, LoRA."""

import json

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers import WanTransformer3DModel as Transformer
from safetensors.torch import save_file

from fourreal.video import ViewTimePipeline
from fourreal.video import wan_files as checkpoints
from fourreal.video.sentencepiece import load_sentencepiece
from fourreal.video.text import load_text_encoder
from fourreal.video.wan_files import check_parts, load_transformer, load_vae
from fourreal.video.wan_keys import transformer_key, vae_key

from ..tiny import key_list

GRID = {"num_views": 2, "num_frames": 5, "num_inference_steps": 2, "output_type": "latent"}
SENTENCES = ["a red ball bouncing past a blue box", "two cats, outdoors", "in a room: 42!"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> bytes:
    """A small SentencePiece model with UMT5's special pieces."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("pieces")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=330,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return (folder / "spiece.model").read_bytes()


def tiny_transformer(channels=16):
    torch.manual_seed(0)
    return Transformer(
        num_attention_heads=1,
        attention_head_dim=128,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    ).eval()


def tiny_vae(channels=16):
    torch.manual_seed(1)
    if channels == 16:
        return AutoencoderKLWan(base_dim=8).eval()
    return AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=12,
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=checkpoints.MEAN_22,
        latents_std=checkpoints.STD_22,
    ).eval()


def tiny_text_encoder(vocabulary):
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(2)
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=16,
            d_ff=48,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).eval()


def comfy_transformer(model, prefix=""):
    return {prefix + transformer_key(k, True): v for k, v in model.state_dict().items()}


def comfy_vae(model, public):
    """A VAE's tensors under the names of the published list."""
    tensors = model.state_dict()
    return {key: tensors[vae_key(key)] for key in public}


def as_file(monkeypatch, tensors, metadata=None):
    """Let the loaders read these tensors, which are too large for a disk."""
    monkeypatch.setattr(checkpoints, "read_safetensors", lambda _: (tensors, metadata or {}))


@pytest.mark.parametrize("layout", ["", "model.diffusion_model.", "fp8_scaled"])
@pytest.mark.parametrize(
    ("file", "name", "width"),
    [
        ("wan2.1_t2v_1.3B", "Wan 2.1 T2V 1.3B", 1536),
        ("wan2.1_t2v_14B", "Wan 2.1 T2V 14B", 5120),
        ("wan2.2_ti2v_5B", "Wan 2.2 TI2V 5B", 3072),
    ],
)
def test_public_transformers_are_recognised_and_no_key_is_left(
    monkeypatch, file, name, width, layout
):
    if layout == "fp8_scaled" and width == 5120:
        pytest.skip("the smaller ones show it")
    public, prefix = key_list(file), "" if layout == "fp8_scaled" else layout
    tensors = {
        prefix + key: torch.empty(shape, device="meta", dtype=torch.float16)
        for key, shape in public.items()
    }
    if layout == "fp8_scaled":
        for key in public:
            if ".self_attn.q.weight" in key:
                tensors[key] = tensors[key].to(torch.float8_e4m3fn)
                tensors[key.replace(".weight", ".scale_weight")] = torch.empty((), device="meta")
        tensors["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    as_file(monkeypatch, tensors)
    model, settings = load_transformer("file.safetensors")
    assert checkpoints.name_of(model) == name and settings == {}
    assert len(model.state_dict()) == len(public)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())  # rotary tables are in no file
    query = model.blocks[0].attn1.to_q.weight
    assert query.shape == (width, width)
    assert query.dtype == (torch.bfloat16 if layout == "fp8_scaled" else torch.float16)
    assert model.scale_shift_table.dtype == torch.float32  # as from_pretrained keeps it


@pytest.mark.parametrize(("file", "channels"), [("wan2.1_vae", 16), ("wan2.2_vae", 48)])
def test_public_vaes_are_recognised_and_no_key_is_left(monkeypatch, file, channels):
    public = key_list(file)
    as_file(monkeypatch, {k: torch.empty(s, device="meta") for k, s in public.items()})
    vae = load_vae("file.safetensors")
    assert len(vae.state_dict()) == len(public) and vae.config.z_dim == channels
    assert vae.config.scale_factor_spatial == channels // 16 * 8 - (channels == 48) * 8
    assert len(vae.config.latents_mean) == len(vae.config.latents_std) == channels


def test_the_public_text_encoder_is_recognised_and_no_key_is_left(monkeypatch, pieces):
    public = key_list("umt5_xxl")
    tensors = {k: torch.empty(s, device="meta", dtype=torch.float16) for k, s in public.items()}
    tensors["spiece_model"] = torch.frombuffer(bytearray(pieces), dtype=torch.uint8)
    as_file(monkeypatch, tensors)
    tokenizer, encoder = load_text_encoder("file.safetensors", dtype=None)
    assert len(encoder.state_dict()) == len(public) + 1  # the embedding has two names
    assert encoder.config.d_model == 4096 and encoder.config.num_heads == 64
    assert encoder.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert tokenizer("a red ball").input_ids[-1] == 1


def test_a_vae_of_the_wrong_base_is_refused_by_both_names(monkeypatch):
    def meta(name):
        tensors = {k: torch.empty(s, device="meta") for k, s in key_list(name).items()}
        as_file(monkeypatch, tensors)

    meta("wan2.2_ti2v_5B")
    transformer, _ = load_transformer("ti2v.safetensors")
    meta("wan2.1_vae")
    vae = load_vae("vae.safetensors")
    with pytest.raises(ValueError, match=r"Wan 2\.2 TI2V 5B.*Wan 2\.2 VAE.*Wan 2\.1 VAE was given"):
        check_parts(transformer, vae)
    with pytest.raises(
        ValueError, match=r"vae\.safetensors holds the Wan 2\.1 VAE, but a Wan text"
    ):
        load_transformer("vae.safetensors")


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
def test_fp8_scaled_weights_are_value_times_scale(tmp_path, scale_name):
    model = tiny_transformer()
    tensors = comfy_transformer(model)
    key = "blocks.1.ffn.0.weight"
    scale = tensors[key].abs().max() / 448
    stored = (tensors[key] / scale).to(torch.float8_e4m3fn)
    tensors |= {key: stored, key.replace("weight", scale_name): scale}
    if scale_name == "scale_weight":
        tensors["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    else:
        note = json.dumps({"format": "float8_e4m3fn"}).encode()
        tensors[key.replace("weight", "comfy_quant")] = torch.tensor(list(note), dtype=torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    weight = load_transformer(tmp_path / "model.safetensors", torch.float32)[0].state_dict()[
        "blocks.1.ffn.net.0.proj.weight"
    ]
    # e4m3 by hand: sign, 4 exponent bits of bias 7, 3 mantissa bits.
    bits = stored.view(torch.uint8).int()
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    normal = 2.0 ** (exponent - 7) * (1 + mantissa / 8)
    number = torch.where(exponent > 0, normal, 2.0**-6 * mantissa / 8) * (1 - 2.0 * (bits >> 7))
    assert torch.equal(weight, number * scale)
    assert (weight - model.blocks[1].ffn.net[0].proj.weight).abs().max() < 0.07 * 448 * scale


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"a": 1}, r"holds tensors named a, but a Wan text-to-video transformer"),
        ({"condition_embedder.time_proj.weight": 1}, "in diffusers' layout"),
        ({"patch_embedding.weight": (8, 36), "head.head.weight": (64, 8)}, "36 input channels"),
        (
            {"patch_embedding.weight": (8, 16), "head.head.weight": (64, 8), "vace_blocks.0": 1},
            "holds a Wan VACE transformer",
        ),
    ],
)
def test_other_files_are_named(tmp_path, tensors, sentence):
    file = tmp_path / "model.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, file)
    with pytest.raises(ValueError, match=sentence) as error:
        load_transformer(file)
    assert "\n" not in str(error.value)


def test_incomplete_foreign_and_otherwise_quantised_files_are_named(tmp_path):
    tensors, file = comfy_transformer(tiny_transformer()), tmp_path / "model.safetensors"
    cut = {k: v for k, v in tensors.items() if k != "blocks.1.ffn.0.bias"}
    save_file(cut | {"blocks.1.extra": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"1 keys are missing.*1 unknown \(blocks.1.extra\)"):
        load_transformer(file)
    save_file(tensors | {"blocks.0.ffn.0.bias": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match=r"shape \(3,\), but \(64,\) is needed"):
        load_transformer(file)
    note = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    save_file(tensors | {"blocks.0.ffn.0.comfy_quant": note}, file)
    with pytest.raises(ValueError, match="quantised as nvfp4"):
        load_transformer(file)
    save_file({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4)}, file)
    with pytest.raises(ValueError, match="but Wan needs UMT5-XXL"):
        load_text_encoder(file)


def test_the_tokenizer_equals_sentencepiece(pieces):
    """Second source: the sentencepiece library on the same model, which adds no </s> itself."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    tokenizer = load_sentencepiece(pieces, 512)
    for text in (*SENTENCES, "  two   spaces ", "Ünknown ② letters 猫", ""):
        assert tokenizer(text).input_ids == [*processor.encode(text), 1], text
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        load_sentencepiece(b"no model at all", 512)


@pytest.mark.parametrize("channels", [16, 48])
def test_single_files_and_a_diffusers_folder_give_the_same_latents(tmp_path, pieces, channels):
    """The folder is written by diffusers' own pipeline of Wan."""
    tokenizer = load_sentencepiece(pieces, 512)
    encoder = tiny_text_encoder(len(tokenizer))
    transformer, vae = tiny_transformer(channels), tiny_vae(channels)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock = WanPipeline(tokenizer, encoder, vae, scheduler, transformer)
    stock.save_pretrained(tmp_path / "folder")
    public = key_list("wan2.1_vae" if channels == 16 else "wan2.2_vae")
    save_file(
        comfy_transformer(transformer, "model.diffusion_model."), tmp_path / "dit.safetensors"
    )
    save_file(comfy_vae(vae, public), tmp_path / "vae.safetensors")
    text = {k: v for k, v in encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    text["spiece_model"] = torch.frombuffer(bytearray(pieces), dtype=torch.uint8)
    save_file(text, tmp_path / "text.safetensors")
    folder = ViewTimePipeline.from_pretrained(tmp_path / "folder")
    files = ViewTimePipeline.from_single_files(
        tmp_path / "dit.safetensors", tmp_path / "vae.safetensors", tmp_path / "text.safetensors"
    )
    assert type(files.scheduler).__name__ == "UniPCMultistepScheduler"
    files.scheduler = folder.scheduler  # Wan's folders hold UniPC, too
    assert files.config.conditioning == ("add" if channels == 16 else "replace")
    assert files.config.max_frames == folder.config.max_frames == (21 if channels == 16 else 31)
    size = files.spatial_stride * 4
    row = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(3))
    latents = []
    for pipe in (folder, files):
        pipe.set_progress_bar_config(disable=True)
        latents.append(
            pipe(
                SENTENCES[0],
                height=size,
                width=size,
                fixed_view=row,
                guidance_scale=2.0,
                generator=torch.Generator().manual_seed(0),
                **GRID,
            ).frames
        )
    assert latents[0].shape == (2, channels, 2, 4, 4)
    assert (latents[0] - latents[1]).abs().max() <= 1e-5
    decoded = [pipe.decode_views(latents[0]) for pipe in (folder, files)]
    assert torch.allclose(*decoded, atol=1e-5)


def tiny_pipeline(pieces, channels=16):
    tokenizer = load_sentencepiece(pieces, 512)
    pipe = ViewTimePipeline(
        tiny_transformer(channels),
        tiny_vae(channels),
        tiny_text_encoder(len(tokenizer)).eval(),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        max_tokens=16,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe, steps=2, **options):
    generator = torch.Generator().manual_seed(0)
    options = GRID | {"num_inference_steps": steps, "height": 32, "width": 32} | options
    return pipe(SENTENCES[0], generator=generator, guidance_scale=1.0, **options).frames


@pytest.mark.parametrize("form", ["diffusers", "comfy", "musubi"])
def test_a_lora_of_any_key_form_is_added_to_the_weights(tmp_path, pieces, form):
    """Second source: W + alpha / rank * B A written into the weight itself."""
    generator, rank, alpha = torch.Generator().manual_seed(4), 4, 2.0
    down = torch.randn(rank, 128, generator=generator) / 4
    up = torch.randn(128, rank, generator=generator) / 4
    tensors = {}
    for block in range(2):
        if form == "diffusers":  # holds no alpha: scaled beforehand
            start = f"transformer.blocks.{block}.attn1.to_q."
            tensors |= {start + "lora_A.weight": down, start + "lora_B.weight": up * alpha / rank}
        elif form == "comfy":
            start = f"diffusion_model.blocks.{block}.self_attn.q."
            tensors |= {start + "lora_A.weight": down, start + "lora_B.weight": up}
            tensors[start + "alpha"] = torch.tensor(alpha)
        else:  # always holds every linear layer of a block
            sizes = {f"{part}_attn_{n}": (128, 128) for part in ("self", "cross") for n in "qkvo"}
            for layer, (wide, narrow) in (sizes | {"ffn_0": (64, 128), "ffn_2": (128, 64)}).items():
                start, query = f"lora_unet_blocks_{block}_{layer}.", layer == "self_attn_q"
                tensors[start + "lora_down.weight"] = down if query else torch.ones(rank, narrow)
                tensors[start + "lora_up.weight"] = up if query else torch.zeros(wide, rank)
                tensors[start + "alpha"] = torch.tensor(alpha)
    tensors = {key: value.clone() for key, value in tensors.items()}
    noted = {"fourreal": json.dumps({"conditioning": "replace", "max_frames": 8})}
    save_file(tensors, tmp_path / "lora.safetensors", noted)
    pipe, plain = tiny_pipeline(pieces), tiny_pipeline(pieces)
    before = sample(plain)
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert pipe.config.conditioning == "replace" and pipe.config.max_frames == 8
    plain.register_to_config(conditioning="replace", max_frames=8)
    for block in plain.transformer.blocks:
        block.attn1.to_q.weight.data += alpha / rank * up @ down
    expected = sample(plain)
    assert (sample(pipe) - expected).abs().max() < 1e-4 < (before - expected).abs().max()
    pipe.unload_lora_weights()
    assert not any("lora" in key for key in pipe.transformer.state_dict())


def test_a_lora_of_another_base_is_refused(tmp_path, pieces):
    start = "diffusion_model.blocks.0.self_attn.q."
    down, up = torch.zeros(4, 96), torch.zeros(96, 4)
    file = tmp_path / "lora.safetensors"
    save_file({start + "lora_A.weight": down, start + "lora_B.weight": up}, file)
    with pytest.raises(ValueError, match=r"lora\.safetensors does not fit a Wan transf") as error:
        tiny_pipeline(pieces).load_lora_weights(file)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"none\.safetensors does not exist"):
        tiny_pipeline(pieces).load_lora_weights(tmp_path / "none.safetensors")


def test_group_offload_slicing_and_tiling_change_no_numbers(pieces):
    pipe = tiny_pipeline(pieces)
    expected = sample(pipe, output_type="pt")
    pipe.enable_group_offload(
        torch.device("cpu"), torch.device("cpu"), "block_level", num_blocks_per_group=1
    )
    pipe.enable_vae_slicing()
    pipe.enable_vae_tiling(tile_sample_min_height=64, tile_sample_min_width=64)
    assert pipe.vae.use_slicing and pipe.vae.use_tiling
    assert torch.equal(sample(pipe, output_type="pt"), expected)


def test_the_compiled_transformer_gives_the_same_and_is_compiled_once(pieces):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    pipe, counter = tiny_pipeline(pieces), CompileCounter()
    expected = sample(pipe)
    pipe.compile(backend=counter)
    assert torch.allclose(sample(pipe), expected, atol=1e-5)
    compiled = counter.frame_count
    assert compiled > 0
    assert torch.allclose(sample(pipe), expected, atol=1e-5)
    assert counter.frame_count == compiled
    torch._dynamo.reset()


def test_the_first_block_cache_skips_the_other_blocks(pieces):
    pipe = tiny_pipeline(pieces)
    expected, calls = sample(pipe, 4), []
    pipe.transformer.blocks[1].ffn.register_forward_hook(lambda *_: calls.append(1))
    pipe.enable_first_block_cache(threshold=0.0)
    assert torch.allclose(sample(pipe, 4), expected, atol=1e-6)
    assert len(calls) == 4
    pipe.transformer.disable_cache()
    calls.clear()
    pipe.enable_first_block_cache(threshold=1e6)
    sample(pipe, 4)
    assert len(calls) == 1  # and again in the next run, whose state is new
    sample(pipe, 4)
    assert len(calls) == 2
