"""Classify on the machines of a Ray cluster: the same chunks, the same parts, and the same rows as on one machine."""
