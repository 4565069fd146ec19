"""Measure the service's throughput beside FastAPI and LitServe on the same graph."""
