"""`fourreal evaluate autoencoder`: exact grids, encoded and decoded, against themselves."""

from dataclasses import dataclass
from typing import Any

import torch

from fourreal.evaluation.evaluated_models import VideoModel, video_model
from fourreal.evaluation.examples import examples
from fourreal.evaluation.report import Report
from fourreal.metrics.pixels import psnr, smoothness, ssim


@dataclass
class AutoencoderEvaluation(VideoModel):
    """Exact grids, encoded and decoded."""


def evaluate_autoencoder(config: AutoencoderEvaluation) -> dict[str, Any]:
    """Score exact grids after encoding and decoding; printed as a table."""
    pipeline, report = video_model(config.model, config.device), Report()
    for example in examples(config):
        exact = example.frames
        with torch.no_grad():
            decoded = pipeline.decode_views(pipeline.encode_views(exact))
        report.add(
            {
                "psnr": psnr(decoded, exact),
                "ssim": ssim(decoded, exact),
                "decoded_smooth_times": smoothness(decoded, 1),
                "exact_smooth_times": smoothness(exact, 1),
            }
        )
    return report.finish(config)
