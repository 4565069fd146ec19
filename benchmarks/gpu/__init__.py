"""Time both passes on an NVIDIA GPU: the exported graph beside PyTorch, torch.compile and ONNX Runtime."""
