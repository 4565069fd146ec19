"""Read data sets into memory, split them, and draw augmented batches."""
