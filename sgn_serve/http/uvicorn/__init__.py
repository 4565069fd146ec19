"""Everything that touches uvicorn, documented parts and others. Nothing else here imports it."""
