"""Routes: what a client can ask, how a request is read, and how the interface is described."""
