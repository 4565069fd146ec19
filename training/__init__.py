"""Training and judging self-gradient networks and their baselines."""
