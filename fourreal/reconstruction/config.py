"""Sizes of the reconstruction model.

The defaults are VGGT-1B (arXiv 2503.11651). The names are those of the configs stored in the
metadata of safetensors files.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

TemporalMode = Literal["none", "token"]
GaussianHeadKind = Literal["none", "paper", "anysplat"]


@dataclass(frozen=True)
class VGGTConfig:
    """Sizes of a VGGT and of the parts this project adds to it.

    Attributes:
        img_size, patch_size: the position embedding is made for (img_size / patch_size)^2 patches
            and is interpolated to the input's grid.
        embed_dim, depth, num_heads, mlp_ratio, num_register_tokens: the aggregator.
        dino_depth, dino_num_heads: the patch embedding, a DINOv2 ViT with registers.
        dpt_features, dpt_out_channels, intermediate_layers: the dense heads and the aggregator
            layers they read; the last one must be the aggregator's last layer.
        camera_head_num_heads: heads of the camera trunk.
        camera_head_dim: width of the camera trunk; None is VGGT's own 2 * embed_dim.
        rope_base: base of the rotary positions.
        layer_scale_init: LayerScale of freshly made frame, global and camera blocks.
        sh_degree: degree of the harmonics of AnySplat's head; None without such a head.
        point_head: whether the point map head exists.
        track_head: whether the head that follows points exists.
        track_features, track_hidden: channels of its feature maps and width of its transformer.
        track_levels, track_radius: levels of its correlation pyramid, each half as fine as the one
            before, and the radius of the window compared at each, in pixels of that level.
        temporal: "token" attends along time at each token, "none" has no temporal blocks.
        gaussian_head: "paper" (14 channels), "anysplat" (9 + 3 (sh_degree + 1)^2) or "none".
        image_shortcut: adds a convolution of the raw image to the paper head's features, for
            sharpness (AnySplat's head always has it).
    """

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    dino_depth: int = 24
    dino_num_heads: int = 16
    dpt_features: int = 256
    dpt_out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    intermediate_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    camera_head_num_heads: int = 16
    camera_head_dim: int | None = None
    rope_base: float = 100.0
    layer_scale_init: float = 0.01
    sh_degree: int | None = None
    point_head: bool = True
    track_head: bool = False
    track_features: int = 128
    track_hidden: int = 384
    track_levels: int = 7
    track_radius: int = 4
    temporal: TemporalMode = "token"
    gaussian_head: GaussianHeadKind = "paper"
    image_shortcut: bool = False

    def __post_init__(self) -> None:
        for name in ("dpt_out_channels", "intermediate_layers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != 4:
                raise ValueError(f"{name} is {getattr(self, name)}, but the heads need 4 levels.")
        if self.intermediate_layers[-1] != self.depth - 1:
            raise ValueError(
                f"intermediate_layers ends with {self.intermediate_layers[-1]}, but must end with "
                f"the last of {self.depth} layers, {self.depth - 1}."
            )
        if self.embed_dim % (4 * self.num_heads) or self.embed_dim % self.dino_num_heads:
            raise ValueError(
                f"embed_dim is {self.embed_dim}, but must be a multiple of 4 * num_heads "
                f"({4 * self.num_heads}) and of dino_num_heads ({self.dino_num_heads})."
            )
        # Stored configs are text: a name that this project does not know must not pass.
        for name, kinds in (("temporal", TemporalMode), ("gaussian_head", GaussianHeadKind)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but must be one of {get_args(kinds)}."
                )
        if self.gaussian_head == "anysplat" and self.sh_degree is None:
            raise ValueError("gaussian_head is 'anysplat', whose sh_degree must be given.")

    @staticmethod
    def small(**changes: Any) -> "VGGTConfig":
        """The embedded model's sizes: 64 x 64 images, 8 x 8 tokens, about 12 million parameters."""
        sizes: dict[str, Any] = {
            "img_size": 64,
            "patch_size": 8,
            "embed_dim": 192,
            "depth": 6,
            "num_heads": 6,
            "dino_depth": 3,
            "dino_num_heads": 6,
            "dpt_features": 48,
            "dpt_out_channels": (48, 64, 96, 128),
            "intermediate_layers": (0, 2, 4, 5),
            "camera_head_num_heads": 4,
            "camera_head_dim": 128,
            "layer_scale_init": 1.0,
            "point_head": False,
            "image_shortcut": True,
        }
        return VGGTConfig(**(sizes | changes))

    def to_json(self) -> str:
        """The config as it is stored in a file's metadata."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str, **missing: Any) -> "VGGTConfig":
        """A config from a file's metadata; `missing` are values for names it does not give.

        Raises ValueError when the text is not such a config.
        """
        try:
            values = json.loads(text)
            unknown = set(values) - {f.name for f in fields(VGGTConfig)}
        except (ValueError, TypeError) as error:
            raise ValueError(f"the file's config is not a JSON object: {error}.") from error
        if unknown:
            raise ValueError(f"the file's config has unknown names: {', '.join(sorted(unknown))}.")
        return VGGTConfig(**(missing | values))

    @property
    def gaussian_channels(self) -> int:
        """Output channels of the Gaussian head."""
        if self.gaussian_head == "anysplat" and self.sh_degree is not None:
            return 9 + 3 * (self.sh_degree + 1) ** 2
        return 14
