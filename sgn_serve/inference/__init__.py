"""The exported graph: loading, engines, batching and classification."""
