"""Test, measure, train and attack in some minutes of a GPU, with one command: `python -m release.gpu` or `make gpu`."""
