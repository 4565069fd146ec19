"""Time both passes on an NVIDIA GPU, in every way that this project knows."""
