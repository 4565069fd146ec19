"""Compare the answers of `sgn classify` with the true labels."""
