"""Confidence intervals of accuracies measured on a sample of pictures."""

from scipy.stats import binomtest


def wilson_interval(right: int, pictures: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    right, pictures: counts, 0 <= right <= pictures, pictures >= 1
    returns:         lower and upper end, in [0, 1]
    Source: Wilson (1927), as recommended by Brown, Cai and DasGupta (2001) for its coverage near 0 and 1.
    """
    interval = binomtest(right, pictures).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
