"""From a checkpoint to one self-contained two-pass graph, checked against PyTorch."""
