"""The services that benchmarks/service.py compares ours with, as somebody would write them who has the same graph."""
