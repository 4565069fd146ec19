"""Convert weights of other programs to checkpoints."""
