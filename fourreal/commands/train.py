"""`fourreal train`: the trainers of the three models."""

from fourreal.training.train_autoencoder import AutoencoderConfig, train_autoencoder
from fourreal.training.train_reconstructor import ReconstructorConfig, train_reconstructor
from fourreal.training.video_config import VideoConfig


def train_video_model(config: VideoConfig) -> None:
    """train_video, imported after the options are checked: diffusers takes seconds."""
    from fourreal.training.train_video import train_video

    train_video(config)


COMMANDS = {
    "autoencoder": (AutoencoderConfig, train_autoencoder),
    "video": (VideoConfig, train_video_model),
    "reconstructor": (ReconstructorConfig, train_reconstructor),
}
