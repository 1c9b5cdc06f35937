"""Rims of things: pixels that show two surfaces at once go to one of them."""

import torch
from torch import Tensor

from fourreal.neighborhoods import grown, window, within_reach
from fourreal.parallel import on_each
from fourreal.reconstruction.image_fit import Images

REACH = 4  # pixels within which both surfaces are looked for
BAND = 2  # pixels beside a jump in depth, to either side, that may show both
UNLIKE = 0.15  # distance of the surfaces' colours (0 to 1) above which they can be told apart


def unmix_edges(images: Tensor, depth: Tensor, jump: float) -> tuple[Tensor, Tensor]:
    """Images [N, 3, H, W] and depth [N, H, W] (z) without pixels between two surfaces.

    A pixel beside a jump in depth of more than the fraction `jump` shows a colour a N + (1 - a) F
    (compositing, Porter and Duff 1984): N and F are the mean colours of the nearer and the farther
    surface around it, away from the jump, and a is found by projecting the pixel's colour on the
    line between them, as matting by two colours does. It goes to the depth of the surface that it
    shows more of. On the farther one it loses a (N - F), what it shows of the nearer one; on the
    nearer one it keeps its colour, so that rims are as soft as the image has them. Where the
    surfaces' colours are alike nothing is told apart, and all stays.

    Networks put edges of depth a pixel or two beside those of colour, and cameras and generated
    frames blur those: left as they are, such pixels are streaks of a thing's colour on the wall
    behind it, and notches in the thing.
    """
    unmixed = [_unmix_view(image, own, jump) for image, own in zip(images, depth)]
    return torch.stack([color for color, _ in unmixed]), torch.stack([z for _, z in unmixed])


def _unmix_view(image: Tensor, depth: Tensor, jump: float) -> tuple[Tensor, Tensor]:
    """unmix_edges of one image [3, H, W] and its depth [H, W]."""
    (nearest, farthest), (least, most) = (within_reach(depth[None], r) for r in (REACH, 1))
    torn = most > (1 + jump) * least  # depth jumps within a pixel
    y, x = grown(torn, BAND - 1)[0].nonzero(as_tuple=True)
    middle = (2 / (1 / nearest + 1 / farthest))[0, y, x, None]

    rows, columns, inside = window(y, x, REACH, *depth.shape)
    around, colors = depth[rows, columns].flatten(1), image[:, rows, columns].flatten(2)
    pure = (inside & ~torn[0, rows, columns]).flatten(1) & around.isfinite()  # [P, K]
    steps = torch.arange(-REACH, REACH + 1, device=depth.device)
    weight = torch.exp((steps[:, None] ** 2 + steps**2) / (-0.5 * REACH**2)).flatten()

    def surface(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether there is one, its colour [3, P] and its depth [P]."""
        own = weight * chosen
        total = own.sum(1)
        share = own / total.clamp_min(1e-9)[:, None]
        return total > 0, (share * colors).sum(-1), 1 / (share / around).sum(1).clamp_min(1e-9)

    is_near, near, near_depth = surface(pure & (around < middle))
    is_far, far, far_depth = surface(pure & (around >= middle))
    color, own, apart = image[:, y, x], depth[y, x], near - far
    distance = apart.square().sum(0)
    alpha = (((color - far) * apart).sum(0) / distance.clamp_min(1e-9)).clamp(0, 1)
    to_near = alpha > 0.5
    place = torch.where(to_near, near_depth, far_depth)
    there = (to_near == (own < middle[:, 0])) & (
        ~torn[0, y, x] | ((own / place - 1).abs() < jump / 2)
    )
    told = is_near & is_far & (distance > UNLIKE**2)
    image, depth = image.clone(), depth.clone()
    unmixed = torch.where(to_near, color, (color - alpha * apart).clamp(0, 1))
    image[:, y[told], x[told]] = unmixed[:, told]
    depth[y[told], x[told]] = torch.where(there, own, place)[told]
    return image, depth


def unmixed_grid(
    images: Images, depth: Tensor, jump: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """unmix_edges of images [T, V, 3, h, w] and depth [T, V, h, w], in the memory of one time on
    `device`; the results are where depth is, the images float16, which is finer than 8 bits and
    takes half the memory."""

    def at(time: int) -> tuple[Tensor, Tensor]:
        color, z = unmix_edges(images[time].to(device), depth[time].to(device), jump)
        return color.to(depth.device, torch.float16), z.to(depth.device)

    both = on_each(at, range(len(depth)), device)
    return torch.stack([color for color, _ in both]), torch.stack([z for _, z in both])
