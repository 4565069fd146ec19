"""Read the weights of other programs, and find the network that they are of."""
