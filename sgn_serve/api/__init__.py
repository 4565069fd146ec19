"""Routes: read requests, ask the predictor, answer, and describe all of this as OpenAPI."""
