"""Everything worth doing with some minutes of a GPU, as one command: `python -m release.gpu`, or `make gpu`."""
