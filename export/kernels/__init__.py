"""Fused kernels: several steps of the two passes in one walk over memory, for PyTorch and for ONNX Runtime."""
