"""The small models of the package, but for the transformer and the reconstructor."""
