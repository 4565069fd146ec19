"""Serve the same graph with other frameworks, to compare the service with."""
