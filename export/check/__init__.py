"""Compare an exported graph with PyTorch, on pictures."""
