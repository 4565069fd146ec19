"""Classify many pictures without a server: read, decode, classify, and write one row for each."""
