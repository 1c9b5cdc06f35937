"""The embedded autoencoder: its transform, its trained decoder and its file."""

import pytest
import torch
from safetensors.torch import save_file

from fourreal.embedded.autoencoder import BlockAutoencoder, load_autoencoder, save_autoencoder
from fourreal.scenes import make_scene, scene_seed
from fourreal.training.train_autoencoder import NoisyDecoding, decoding_loss
from fourreal.video.wan_files import load_vae


def test_block_autoencoder_is_causal_and_orthogonal():
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(6, 3, 3, 4, 4), (9, 32, 32)) * 2 - 1
    vae = BlockAutoencoder(z_dim=192)
    vae.fit([smooth])
    latents = vae.encode(smooth).latent_dist.mean
    assert latents.shape == (6, 192, 3, 4, 4)
    # 192 components are all there are in a first frame: it comes back exactly.
    assert torch.allclose(vae.decode(latents).sample[:, :, 0], smooth[:, :, 0], atol=1e-4)
    assert torch.allclose(vae.encode(smooth[:, :, :5]).latent_dist.mean, latents[:, :, :2])


def test_neighbours_decode_better_than_blocks_alone():
    """They begin without effect, and learn what a block's own 16 numbers do not tell."""
    torch.manual_seed(0)
    clips = make_scene(scene_seed("train", 0), 4, 9, 64, 64).frames.transpose(1, 2) * 2 - 1
    plain, vae = BlockAutoencoder(16), BlockAutoencoder(16, 32)
    plain.fit([clips])
    vae.load_state_dict(plain.state_dict(), strict=False)
    latents = vae.encode(clips).latent_dist.mean
    assert torch.equal(latents, plain.encode(clips).latent_dist.mean)
    assert not any(correction.any() for correction in vae.neighbours(latents))
    before = vae.decode(latents).sample
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    for step in range(30):
        decoded = NoisyDecoding(vae)(clips, torch.Generator().manual_seed(step))
        loss = decoding_loss(decoded, clips)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = vae.decode(latents).sample
    for other in (before, plain.decode(latents).sample):
        assert (after - clips).square().mean() < 0.8 * (other - clips).square().mean()
    assert vae.decode(latents[:, :, :1]).sample.shape == (4, 3, 1, 64, 64)


def test_the_trained_decoder_smooths_the_edges_between_its_blocks():
    torch.manual_seed(0)
    vae = BlockAutoencoder(16, 32)
    latents = torch.randn(1, 16, 3, 4, 4)
    vae.fit([torch.rand(2, 3, 9, 32, 32)])
    smooth = vae.unclamped(latents)
    vae.neighbours = None
    plain = vae.unclamped(latents)
    for dim, edges in ((2, [1, 5]), (3, [8, 16, 24]), (4, [8, 16, 24])):
        at = torch.tensor(edges)
        jumps = [
            (v.index_select(dim, at) - v.index_select(dim, at - 1)).square().mean()
            for v in (plain, smooth)
        ]
        assert jumps[1] < 0.6 * jumps[0]


@pytest.mark.parametrize("load", [load_autoencoder, load_vae])
def test_a_saved_autoencoder_comes_back_in_half_precision(tmp_path, load):
    torch.manual_seed(0)
    vae, path = BlockAutoencoder(8, 16), tmp_path / "autoencoder.safetensors"
    vae.fit([torch.rand(4, 3, 9, 16, 16) * 2 - 1])
    save_autoencoder(vae, path)
    again = load(path, torch.float32)
    assert again.config.z_dim == 8 and again.config.decoder_width == 16 and not again.training
    for key, value in vae.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float()), key
    assert load(path, None).first_basis.dtype == torch.float16


def test_another_file_is_no_autoencoder(tmp_path):
    path = tmp_path / "autoencoder.safetensors"
    save_file({"conv2.weight": torch.zeros(16, 16)}, path)
    with pytest.raises(ValueError, match=r"autoencoder\.safetensors is not an embedded autoenc"):
        load_autoencoder(path)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is not a complete"):
        load_autoencoder(path)
