"""Attack batches on the machines of a Ray cluster: the same batches and the same report as of one process."""
