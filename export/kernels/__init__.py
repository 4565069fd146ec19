"""The fused kernel of the self-gradient block, for PyTorch and for ONNX Runtime."""
