"""What images, grids and videos are worth."""
