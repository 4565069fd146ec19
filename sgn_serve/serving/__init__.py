"""Join pictures and inference into predictions, and replace the model while serving."""
