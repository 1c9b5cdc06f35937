"""Prune Scene: its values cost no reconstruction, and its parts go on through the graph."""

import pytest
import torch

from ..comfyui import needs_comfyui, one_conditioning, prompt_of

GRID = {"num_views": 2, "num_frames": 5, "width": 32, "height": 32}
PRUNED = {"min_opacity": 0.0, "confidence_percentile": 0.0, "voxel_size": 0.0, "fps": 0.0}


@pytest.mark.slow
@one_conditioning
def test_the_scene_of_a_reconstruction_is_pruned_and_taken_apart(nodes, embedded):
    images = nodes.ExampleScene.execute(0, 2, 5, 32, 32).args[0]
    scene = nodes.Reconstruct.execute(embedded.reconstructor, images, 2, 8.0).args[0]
    given = scene.num_gaussians
    left, still, moving = nodes.PruneScene.execute(scene, 0.0, 50.0, 0.0, 12.0).args
    assert abs(left.num_gaussians - given / 2) <= 1 and (scene.num_gaussians, scene.fps) == (
        given,
        8,
    )
    assert still.num_gaussians + moving.num_gaussians == left.num_gaussians
    for part in (left, still, moving):
        assert isinstance(part, nodes.types.CachedScene)
        assert (part.fps, part.num_frames, part.num_views) == (12, 5, 2)
    assert not len(still.dynamic[0]) and not len(moving.static)
    # All that it holds is known to ComfyUI's cache.
    held = {t.data_ptr() for t in left if t.numel()}
    assert {t.data_ptr() for t in left.confidences if t.numel()} <= held


def test_a_splat_is_pruned_too(nodes):
    from ..tiny import cloud

    cameras = torch.eye(3, 4)[None], torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]])
    scene = nodes.types.CachedScene(cloud(0), [cloud(20), cloud(20, 1, 1)], *cameras, 64, 48)
    splat = nodes.SceneToSplat.execute(scene, -1).args[0]
    left = nodes.PruneScene.execute(splat, 0.5, 0.0, 0.0, 0.0).args[0]
    assert len(left.at(1)) == (scene.at(1).opacities >= 0.5).sum()


@needs_comfyui
def test_another_value_does_not_run_the_reconstruction_again(server, info):
    """The history names what was taken from the cache."""

    def cached(**values) -> set[str]:
        done = server.finish(
            prompt_of(
                {
                    "models": ("FourReal_LoadEmbeddedModels", {}),
                    "example": ("FourReal_ExampleScene", {"seed": 5, **GRID}),
                    "rebuilt": (
                        "FourReal_Reconstruct",
                        {
                            "reconstructor": ["models", 3],
                            "images": ["example", 0],
                            "num_views": ["example", 4],
                            "fps": 8.0,
                            **{"cameras": "first", "shared_intrinsics": False, "resolution": 0},
                            **{"confidence_percentile": 0.0, "min_opacity": 0.02},
                            **{"voxel_size": 0.0, "store_static_once": True},
                        },
                    ),
                    "pruned": (
                        "FourReal_PruneScene",
                        {"scene": ["rebuilt", 0], **PRUNED, **values},
                    ),
                    "kept": (
                        "FourReal_SaveScene",
                        {"scene": ["pruned", 2], "filename_prefix": "p", "format": "ply"},
                    ),
                }
            )
        )
        assert done["status"]["status_str"] == "success", done["status"]["messages"]
        (told,) = (
            about for kind, about in done["status"]["messages"] if kind == "execution_cached"
        )
        return set(told["nodes"])

    cached()
    for change in ({"min_opacity": 0.2}, {"fps": 5.0}, {"voxel_size": 1.0}):
        assert cached(**change) == {"models", "example", "rebuilt"}
