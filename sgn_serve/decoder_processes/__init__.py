"""Processes that decode pictures: confined, bounded in memory and time, and replaced when they fail."""
