"""Grid Latent: references as people have them, and the shape of the grid for what follows."""

import pytest
import torch


@torch.inference_mode()
def test_a_video_of_another_size_and_length_is_fitted_at_its_middle(embedded, monkeypatch):
    """30 frames of 1280 x 720: a red, a green and a blue third. The middle 720 pixels stay, so that
    the thirds meet at columns 6.5 and 25.5 of 32."""
    video = torch.zeros(30, 720, 1280, 3)
    for channel, third in enumerate(torch.arange(1280).chunk(3)):
        video[:, :, third, channel] = 1
    encode, seen = embedded.vae.encode, []
    monkeypatch.setattr(embedded.vae, "encode", lambda x: seen.append(x) or encode(x))
    out = embedded.nodes.GridLatent.execute(2, 29, 32, 32, embedded.vae, fixed_view=video).args
    assert out[1:] == (2, 29, 32, 32)
    known = out[0]["fourreal_known"]
    assert known[0].all() and not known[1].any()
    (pixels,) = seen
    assert pixels.shape == (29, 32, 32, 3)
    for channel, columns in enumerate((slice(0, 5), slice(9, 24), slice(28, 32))):
        expected = torch.eye(3)[channel].expand(29, 32, columns.stop - columns.start, 3)
        torch.testing.assert_close(pixels[:, :, columns], expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_fitting_can_be_turned_off_and_never_leaves_photos_out(embedded):
    def grid(**options):
        return embedded.nodes.GridLatent.execute(2, 5, 32, 32, embedded.vae, **options)

    with pytest.raises(ValueError, match="9 images of 32 x 32 pixels, but this grid needs 5"):
        grid(fixed_view=torch.zeros(9, 32, 32, 3), fit_references=False)
    with pytest.raises(ValueError, match="5 images of 48 x 32 pixels, but this grid needs 5"):
        grid(fixed_view=torch.zeros(5, 32, 48, 3), fit_references=False)
    with pytest.raises(ValueError, match="freeze_time has 3 images"):
        grid(freeze_time=torch.zeros(3, 48, 64, 3))
    assert grid(freeze_time=torch.rand(2, 48, 64, 3)).args[0]["fourreal_known"][:, 0].all()


@torch.inference_mode()
def test_the_shape_comes_out_of_whoever_makes_a_grid(nodes):
    videos = {f"view{i}": torch.zeros(5, 16, 24, 3) for i in range(3)}
    assert nodes.AssembleGrid.execute(videos).args[1:] == (3, 5, 24, 16)
    assert nodes.ExampleScene.execute(0, 2, 5, 32, 16).args[4:] == (2, 5, 32, 16)
