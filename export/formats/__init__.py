"""Write and run a captured graph as ONNX, TorchScript or an AOTInductor package."""
