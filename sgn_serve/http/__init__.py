"""Middleware and connections: errors, tokens, limits, logging and shutdown."""
