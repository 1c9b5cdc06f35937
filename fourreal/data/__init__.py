"""Readers of training data: clips, posed photos, pseudo-4D, procedural grids; and their caches."""
