"""The training loop: epochs, learning rate, validation, saved state and progress."""
