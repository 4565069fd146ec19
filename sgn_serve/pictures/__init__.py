"""Read pictures: NumPy and Pillow only."""
