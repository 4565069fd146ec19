"""The modules that import uvicorn: its connection with limits, and the server that runs."""
