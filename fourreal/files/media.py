"""Videos, images and depth maps as tensors: everything that the house reads and writes of them."""

from fourreal.files.depth_maps import is_archive, read_depth, write_depth
from fourreal.files.images import (
    IMAGE_SUFFIXES,
    fit_frames,
    image_files,
    open_image,
    read_image,
    read_images,
    to_uint8,
    write_image,
    write_images,
)
from fourreal.files.listing import media_files, natural_order, subfolders
from fourreal.files.synchronised import read_synchronised, view_files
from fourreal.files.video_reader import VIDEO_SUFFIXES
from fourreal.files.videos import VideoMeasures, is_one_rate, measure_video, read_video, write_video

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "VideoMeasures",
    "fit_frames",
    "image_files",
    "is_archive",
    "is_one_rate",
    "measure_video",
    "media_files",
    "natural_order",
    "open_image",
    "read_depth",
    "read_image",
    "read_images",
    "read_synchronised",
    "read_video",
    "subfolders",
    "to_uint8",
    "view_files",
    "write_depth",
    "write_image",
    "write_images",
    "write_video",
]
