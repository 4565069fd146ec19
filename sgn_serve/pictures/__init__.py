"""Read and draw pictures. Nothing here imports more than NumPy, Pillow and the standard library."""
