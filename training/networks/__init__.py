"""Backbones, the self-gradient network around them, and the paper's gradient oracle."""
