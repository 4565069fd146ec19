"""The confidence interval of a judgement is that of a report on classified pictures, and SciPy's.

Each has its own function, because serving imports nothing of training, and SciPy's statistics are slow to import.
"""

import pytest
from scipy.stats import binomtest

from sgn_serve.classify.report.counts import interval_95
from training.evaluate.report import wilson_interval


@pytest.mark.parametrize("pictures", [1, 2, 20, 263, 10_000, 1_000_000])
def test_the_intervals_agree(pictures):
    for right in {0, 1, pictures // 3, pictures // 2, pictures - 1, pictures}:
        expected = binomtest(right, pictures).proportion_ci(0.95, method="wilson")
        assert wilson_interval(right, pictures) == pytest.approx((expected.low, expected.high), rel=0, abs=1e-12)
        assert interval_95(right, pictures) == pytest.approx((expected.low, expected.high), rel=0, abs=1e-12)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_a_judgements_interval_takes_any_confidence(confidence):
    expected = binomtest(81, 263).proportion_ci(confidence, method="wilson")
    assert wilson_interval(81, 263, confidence) == pytest.approx((expected.low, expected.high), rel=0, abs=1e-12)
