"""Benchmarks of attention, the rasterizers and reconstruction on the present device."""
