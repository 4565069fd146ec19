"""Capture both passes of a network as one graph of ATen operators."""
