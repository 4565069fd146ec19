"""Judge a checkpoint: run attacks, measure diagnostics, and write the robustness report."""
