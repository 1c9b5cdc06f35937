"""`fourreal ablate`: what each idea earns."""

from fourreal.evaluation.ablations import (
    ReconstructionAblation,
    SamplingAblation,
    VideoAblation,
    ablate_reconstruction,
    ablate_sampling,
    ablate_video,
)

COMMANDS = {
    "video": (VideoAblation, ablate_video),
    "sampling": (SamplingAblation, ablate_sampling),
    "reconstruction": (ReconstructionAblation, ablate_reconstruction),
}
