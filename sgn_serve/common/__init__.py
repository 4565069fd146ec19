"""Helpers that several packages share. They import nothing else of sgn_serve."""
