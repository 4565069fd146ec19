"""Logits as an unnormalised log-density of images: their log-sum-exp."""

from torch import Tensor


def log_sum_exp(logits: Tensor) -> Tensor:
    """Return the log-sum-exp of each image's logits (N, classes), summed over images."""
    return logits.logsumexp(dim=1).sum()
