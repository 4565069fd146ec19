"""Time the exported graphs in every engine, against a plain pass and against counted arithmetic."""
