"""`fourreal train`: the trainers of the three models."""

from fourreal.training.train_autoencoder import AutoencoderConfig, train_autoencoder
from fourreal.training.train_reconstructor import ReconstructorConfig, train_reconstructor
from fourreal.training.train_video import VideoConfig, train_video

COMMANDS = {
    "autoencoder": (AutoencoderConfig, train_autoencoder),
    "video": (VideoConfig, train_video),
    "reconstructor": (ReconstructorConfig, train_reconstructor),
}
