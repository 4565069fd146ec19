"""Attacks on classifiers: one frozen record for each row of a robustness report."""
