"""How a grid is reconstructed: the options of `Reconstructor`."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

from fourreal.reconstruction.filters import Filters
from fourreal.reconstruction.image_fit import ImageFit
from fourreal.reconstruction.split import StaticSplit

CameraMode = Literal["first", "mean", "median", "even"]
LEAST = {
    "resolution": 1,
    "window": 1,
    "detail": 1,
    "sh_degree": 0,
    "refine": 0,
}
SMALL, SMALL_DETAIL = 128, 2  # pixels that a network was made for, and detail up to there
WINDOW = 8  # times that trained temporal layers join by default


@dataclass(frozen=True)
class ReconstructionOptions:
    """Options of a reconstruction; wrong values raise ValueError in one sentence.

    Attributes:
        cameras: "first" (camera token replacement: those of the first time), "mean" or "median" of
            the cameras that each time has on its own, "even" (as "first", moved to where each is
            the same step from the one before: for views that a video model made of one camera's
            movement), or given (extrinsics [V, 3, 4], intrinsics [V, 3, 3] in pixels of the
            frames).
        shared_intrinsics: all views get the median field of view.
        fps: times per second when the scene is played.
        resolution: the longer side of what the network sees; its training size by default.
        window: times per run of the network. Without trained temporal layers it only trades memory
            for speed (1 by default); with them, times see each other inside a window (8 by
            default), and windows overlap by a quarter.
        align: match the depth scale of each time to the first; by default where no window of
            trained temporal layers does so.
        filters: which pixels become Gaussians; Filters.none() keeps all.
        split: how static pixels are found; None stores all pixels at every time.
        sh_degree: harmonics to keep of a head that predicts them (AnySplat's has 4); 0 keeps one
            colour for all directions.
        adjust: photometric bundle adjustment of predicted cameras, and of each time's depth between
            the views (`adjust_cameras`, `adjust_depth`); without it what the network says is kept.
        detail: Gaussians along each side of a pixel that the network sees, if the frames have as
            many pixels; by default 2 for networks made for at most 128 pixels, such as the embedded
            one, and else 1.
        refine: steps of photometric optimisation of the Gaussians on the frames (`refine_scene`);
            200 to 300 are a good number, 0 keeps what the network says.
        gaussians: make them; where False the scene is empty, and only depth and cameras are found.
        filled: pixels [V, T, H, W] that a model made up, true or 1; all are trusted by default.
            Where a pixel of another view, which is not, shows the same place at that time, it alone
            becomes a Gaussian; refinement weighs filled pixels less.
    """

    cameras: CameraMode | tuple[Tensor, Tensor] = "first"
    shared_intrinsics: bool = False
    fps: float = 8.0
    resolution: int | None = None
    window: int | None = None
    align: bool | None = None
    filters: Filters = field(default_factory=Filters)
    split: StaticSplit | None = field(default_factory=StaticSplit)
    sh_degree: int = 0
    adjust: bool = True
    detail: int | None = None
    refine: int = 0
    gaussians: bool = True
    filled: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.cameras, str) and self.cameras not in get_args(CameraMode):
            raise ValueError(
                f"cameras is {self.cameras!r}, but must be one of "
                f"{', '.join(get_args(CameraMode))} or a pair (extrinsics, intrinsics)."
            )
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}.")
        if self.refine and not self.gaussians:
            raise ValueError(
                f"refine is {self.refine}, but no Gaussians are made; make them, or leave it 0."
            )

    def check_grid(self, frames: Tensor) -> None:
        """Raise ValueError unless given cameras and filled are those of frames [V, T, 3, H, W]."""
        num_views, num_times, _, height, width = frames.shape
        if self.filled is not None and self.filled.shape != (num_views, num_times, height, width):
            raise ValueError(
                f"filled has the shape {tuple(self.filled.shape)}, but the frames need "
                f"({num_views}, {num_times}, {height}, {width}): views, times, height, width."
            )
        if isinstance(self.cameras, str):
            return
        shapes = [tuple(part.shape) for part in self.cameras]
        if shapes != [(num_views, 3, 4), (num_views, 3, 3)]:
            raise ValueError(
                f"given cameras have the shapes {shapes}, but extrinsics ({num_views}, 3, 4) and "
                f"intrinsics ({num_views}, 3, 3) are needed for {num_views} views."
            )

    def detail_of(self, fit: ImageFit, made_for: int) -> int:
        """Detail of frames fitted to a network that was made for so many pixels."""
        wanted = self.detail or (SMALL_DETAIL if made_for <= SMALL else 1)
        return max(1, min(wanted, fit.input_height // fit.height, fit.input_width // fit.width))

    def adjusts(self, num_views: int) -> bool:
        """Whether anything is adjusted: one view has none to agree with."""
        return self.adjust and num_views > 1

    def steps(self, num_views: int, num_times: int) -> int:
        """How often progress is told."""
        return num_times * (2 if self.adjusts(num_views) else 1) + self.refine

    def window_of(self, num_times: int, trained: bool) -> int:
        """Times per run of a network whose temporal layers are trained or not."""
        return min(self.window or (WINDOW if trained else 1), num_times)
