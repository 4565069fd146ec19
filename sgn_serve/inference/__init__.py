"""Run an exported graph: read it, start an engine, classify and batch. Nothing here imports http or api."""
