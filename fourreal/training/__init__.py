"""Trainers for the autoencoder, the video model and the reconstructor (extra `train`)."""
