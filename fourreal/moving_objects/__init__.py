"""Objects that move, carried along their paths from the frames that show them sharply."""

from fourreal.moving_objects.carrying import carry_objects
from fourreal.moving_objects.segmentation import MovingObject, moving_objects

__all__ = ["MovingObject", "carry_objects", "moving_objects"]
