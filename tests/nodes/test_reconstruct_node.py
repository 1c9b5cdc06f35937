"""Reconstruct 4D: options, cancel, offloading, and the memory that its scene is known to hold."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from fourreal.reconstruction import Filters, StaticSplit

from ..comfyui import needs_comfyui, one_conditioning


class Asked(Exception):
    """In place of a reconstruction: what the reconstructor was asked for."""


def asked_for(nodes, **options) -> dict:
    def reconstructor(frames, **given):
        raise Asked(given)

    with pytest.raises(Asked) as caught:
        nodes.Reconstruct.execute(reconstructor, torch.rand(4, 8, 8, 3), 2, 8.0, **options)
    (given,) = caught.value.args
    return given


def test_a_workflow_without_the_later_options_gets_the_librarys_defaults(nodes):
    given = asked_for(nodes)
    assert given["filters"] == Filters() and given["split"] == StaticSplit()
    assert (given["cameras"], given["sh_degree"], given["refine"]) == ("first", 0, 0)
    assert all(given[name] is None for name in ("resolution", "window", "align"))


def test_a_new_node_filters_as_the_library_does_by_default(nodes):
    inputs = {i.id: i for i in nodes.Reconstruct.define_schema().inputs}
    assert {name: inputs[name].default for name in asdict(Filters())} == asdict(Filters())


def test_every_option_of_the_node_reaches_the_reconstructor(nodes):
    filters = {
        "sharpen": 0.2,
        "unmix": 0.05,
        "confidence_percentile": 5.0,
        "depth_edge": 0.3,
        "border": 0.1,
        "consistency": 0.4,
        "min_opacity": 0.5,
        "voxel_size": 2.0,
    }
    cameras = {"extrinsics": torch.eye(4).repeat(2, 1, 1), "intrinsics": torch.eye(3)[None]}
    options = {
        "cameras": "mean",
        "shared_intrinsics": True,
        "resolution": 56,
        "store_static_once": False,
        "window": 3,
        "align": "never",
        "adjust": False,
        "detail": 3,
        "sh_degree": 2,
        "refine": 7,
    }
    names = {i.id for i in nodes.Reconstruct.define_schema().inputs}
    assert names - {"reconstructor", "images", "num_views", "fps", "filled"} == {
        *filters,
        *cameras,
        *options,
    }
    given = asked_for(nodes, **options, **filters)
    assert given.pop("filters") == Filters(**filters)
    assert given.pop("split") is None and given.pop("align") is False
    assert given.pop("fps") == 8.0 and callable(given.pop("progress"))
    assert given.pop("filled") is None
    assert given == {k: options[k] for k in given}
    assert given.keys() == options.keys() - {"store_static_once", "align"}
    extrinsics, intrinsics = asked_for(nodes, **options, **cameras)["cameras"]
    assert extrinsics.shape == (2, 3, 4) and intrinsics is cameras["intrinsics"]


def test_the_mask_of_filled_pixels_is_a_grid(nodes):
    mask = torch.rand(4, 8, 8)
    assert torch.equal(asked_for(nodes, filled=mask)["filled"], mask.unflatten(0, (2, 2)))
    with pytest.raises(ValueError, match="3 images cannot be split into 2 views"):
        nodes.Reconstruct.execute(None, torch.rand(4, 8, 8, 3), 2, 8.0, filled=mask[:3])


def test_later_options_are_last_and_optional(nodes):
    """So that an editor restores the widgets of a workflow that was saved without them."""
    inputs = nodes.Reconstruct.define_schema().inputs
    optional = [i.id for i in inputs if i.optional]
    assert [i.id for i in inputs][-len(optional) :] == optional
    assert optional[:3] == ["extrinsics", "intrinsics", "window"]


@pytest.mark.slow
@torch.inference_mode()
@one_conditioning
def test_refinement_steps_move_the_bar_and_change_the_gaussians(nodes, embedded, monkeypatch):
    values = []
    bar = nodes.progress.comfy.utils.ProgressBar
    stock = bar.update_absolute
    monkeypatch.setattr(
        bar,
        "update_absolute",
        lambda self, value, *rest: values.append(value) or stock(self, value, *rest),
    )
    images = torch.rand(2 * 2, 64, 64, 3, generator=torch.Generator().manual_seed(0))

    def colours(refine: int) -> torch.Tensor:
        values.clear()
        scene = nodes.Reconstruct.execute(
            embedded.reconstructor, images, 2, 8.0, refine=refine
        ).args[0]
        return scene.at(0).harmonics

    plain = colours(0)
    assert values == [1, 2, 3, 4]
    refined = colours(3)
    assert values == [1, 2, 3, 4, 5, 6, 7]
    assert refined.shape == plain.shape and not torch.equal(refined, plain)


@torch.inference_mode()
@one_conditioning
def test_cancel_stops_a_reconstruction_and_the_next_one_works(nodes, embedded):
    import comfy.model_management as management

    reconstructor = embedded.reconstructor
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
    assert gaussians and held == gaussians * (3 + 4 + 3 + 1 + 3 + 1) * 4  # with a confidence each


@needs_comfyui
@torch.inference_mode()
@one_conditioning
def test_little_memory_offloads_layers_of_the_reconstructor_and_changes_nothing(
    nodes, embedded, monkeypatch
):
    import comfy.model_management as management

    reconstructor = embedded.reconstructor
    frames = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = reconstructor(frames)
    layers = [m for m in reconstructor.patcher.model.modules() if hasattr(m, "comfy_cast_weights")]
    assert not any(m.comfy_cast_weights for m in layers)
    management.unload_all_models()

    # As on a GPU whose free memory holds the activations and a part of the weights.
    needed = reconstructor.memory_required(frames, None, None) + management.extra_reserved_memory()
    needed = max(needed, management.minimum_inference_memory())
    free = needed + reconstructor.patcher.model_size() // 2
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "get_free_memory", lambda *_, **__: free)
    less = reconstructor(frames)
    offloaded = [m.comfy_cast_weights for m in layers]
    assert any(offloaded) and not all(offloaded)
    torch.testing.assert_close(less.depth, whole.depth)
    torch.testing.assert_close(less.extrinsics, whole.extrinsics)


@needs_comfyui
def test_a_scene_of_a_gigabyte_counts_as_one_in_the_cache(nodes):
    from comfy_execution.caching import CacheKeySetID, RAMPressureCache

    from fourreal.gaussians import Gaussians

    count = 20_000_000
    large = Gaussians(*(torch.empty(count, *n) for n in ((3,), (4,), (3,), (), (1, 3))))
    eye = torch.eye(4)[None, :3]
    scene = nodes.types.CachedScene(Gaussians.empty(), [large], eye, eye[:, :, :3], 64, 64)
    cache = RAMPressureCache(CacheKeySetID)
    cache.cache["node"] = SimpleNamespace(outputs=[[scene]])
    cache.used_generation, cache.generation = {"node": 0}, 1
    cache.timestamps = {"node": 0}
    assert cache.ram_release(1 << 60) >= count * 14 * 4
