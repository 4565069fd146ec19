"""The training methods: each turns a batch into the loss to minimise."""

from training.methods.build import build_method
from training.methods.step import Batch, Method, Step, StepContext

__all__ = ["Batch", "Method", "Step", "StepContext", "build_method"]
