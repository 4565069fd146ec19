"""Rewrite an ONNX model so that its engine runs it faster."""
