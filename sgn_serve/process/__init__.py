"""The worker process and its supervisor: cores, garbage collection, version."""
