"""Camera head of VGGT: pose encodings from camera tokens, refined in four iterations.

A pose encoding [..., 9] is translation (3), quaternion x, y, z, w (4), and the vertical and
horizontal field of view in radians (2), of a world-to-camera OpenCV camera whose principal point is
the image centre (arXiv 2503.11651, section 3.3).
"""

import torch
from torch import Tensor, nn

from fourreal.cameras import matrix_to_quaternion, quaternion_to_matrix
from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.layers import Block, Mlp, init_transformer

NUM_ITERATIONS = 4
NUM_BLOCKS = 4


class CameraHead(nn.Module):
    """Transformer over the camera tokens of a sequence, modulated by the previous estimate."""

    def __init__(self, config: VGGTConfig):
        super().__init__()
        token_dim = 2 * config.embed_dim
        dim = config.camera_head_dim or token_dim
        self.token_norm = nn.LayerNorm(token_dim)
        self.token_projection = (
            nn.Identity() if dim == token_dim else nn.Linear(token_dim, dim)
        )  # only in this project's small models
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, 9))
        self.embed_pose = nn.Linear(9, dim)
        self.adaln_norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.trunk = nn.ModuleList(
            Block(dim, config.camera_head_num_heads, config.mlp_ratio, config.layer_scale_init)
            for _ in range(NUM_BLOCKS)
        )
        self.trunk_norm = nn.LayerNorm(dim)
        self.pose_branch = Mlp(dim, dim // 2, 9)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fresh weights; the first guess is a camera at the origin with a field of view of 1.

        An open field of view keeps its ReLU alive, which would otherwise stop half of all starts.
        """
        init_transformer(self)
        nn.init.zeros_(self.empty_pose_tokens)
        self.pose_branch.fc2.weight.mul_(0.1)
        bias = self.pose_branch.fc2.get_parameter("bias")
        bias[6] = bias[7] = bias[8] = 1.0 / NUM_ITERATIONS

    def forward(self, camera_tokens: Tensor) -> Tensor:
        """Pose encodings [B, S, NUM_ITERATIONS, 9] after each iteration, from the camera tokens
        [B, S, C] of the aggregator's last layer.

        Runs in float32 whatever autocast says.
        """
        with torch.autocast(camera_tokens.device.type, enabled=False):
            x = self.token_projection(self.token_norm(camera_tokens.float()))
            normalised = self.adaln_norm(x)
            raw: Tensor | None = None
            estimates = []
            for _ in range(NUM_ITERATIONS):
                previous = self.empty_pose_tokens.expand(*x.shape[:2], -1)
                if raw is not None:
                    previous = raw.detach()
                shift, scale, gate = self.poseLN_modulation(self.embed_pose(previous)).chunk(3, -1)
                hidden = x + gate * (normalised * (1 + scale) + shift)
                for block in self.trunk:
                    hidden = block(hidden)
                delta = self.pose_branch(self.trunk_norm(hidden))
                raw = delta if raw is None else raw + delta
                estimates.append(torch.cat([raw[..., :7], raw[..., 7:].relu()], dim=-1))
        return torch.stack(estimates, dim=2)


ANYSPLAT_TANGENT = 1e-3  # what AnySplat adds to the tangents of half its fields of view


def pose_encoding_to_cameras(
    encoding: Tensor, height: int, width: int, tangent_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Extrinsics [..., 3, 4] and intrinsics [..., 3, 3] of pose encodings [..., 9].

    height and width are the image's pixels; the principal point is its centre. tangent_offset is
    ANYSPLAT_TANGENT for AnySplat's weights, which were trained with it.
    """
    rotation = quaternion_to_matrix(encoding[..., [6, 3, 4, 5]])
    extrinsics = torch.cat([rotation, encoding[..., :3, None]], dim=-1)
    focal_y = 0.5 * height / (torch.tan(encoding[..., 7] / 2) + tangent_offset)
    focal_x = 0.5 * width / (torch.tan(encoding[..., 8] / 2) + tangent_offset)
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    rows = [focal_x, zero, 0.5 * width * one, zero, focal_y, 0.5 * height * one, zero, zero, one]
    return extrinsics, torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def cameras_to_pose_encoding(
    extrinsics: Tensor, intrinsics: Tensor, height: int, width: int
) -> Tensor:
    """Pose encodings [..., 9] of cameras; the principal point is taken to be the image centre.

    The quaternion has w >= 0.
    """
    quaternion = matrix_to_quaternion(extrinsics[..., :3])[..., [1, 2, 3, 0]]
    fov = torch.stack(
        [
            2 * torch.atan(0.5 * height / intrinsics[..., 1, 1]),
            2 * torch.atan(0.5 * width / intrinsics[..., 0, 0]),
        ],
        dim=-1,
    )
    return torch.cat([extrinsics[..., 3], quaternion, fov], dim=-1)
