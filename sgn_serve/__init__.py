"""An HTTP service that classifies pictures with an exported self-gradient network, on ONNX Runtime."""
