"""Measure what the documents claim: a module for each claim, which writes results/*.json."""
