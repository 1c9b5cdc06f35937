"""`fourreal evaluate`: the protocols that score the models."""

from fourreal.evaluation.evaluate_autoencoder import AutoencoderEvaluation, evaluate_autoencoder
from fourreal.evaluation.evaluate_reconstruction import (
    PipelineEvaluation,
    ReconstructionEvaluation,
    SplitEvaluation,
    evaluate_pipeline,
    evaluate_reconstruction,
    evaluate_split,
)
from fourreal.evaluation.evaluate_text import TextEvaluation, evaluate_text
from fourreal.evaluation.evaluate_video import VideoEvaluation, evaluate_video
from fourreal.evaluation.evaluate_warp import WarpEvaluation, evaluate_warp

COMMANDS = {
    "autoencoder": (AutoencoderEvaluation, evaluate_autoencoder),
    "video": (VideoEvaluation, evaluate_video),
    "warp": (WarpEvaluation, evaluate_warp),
    "text": (TextEvaluation, evaluate_text),
    "reconstruction": (ReconstructionEvaluation, evaluate_reconstruction),
    "pipeline": (PipelineEvaluation, evaluate_pipeline),
    "split": (SplitEvaluation, evaluate_split),
}
