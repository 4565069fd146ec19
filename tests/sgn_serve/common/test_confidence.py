"""The confidence interval of every report is SciPy's, which is slow to import."""

import pytest
from scipy.stats import binomtest

from sgn_serve.common.confidence import interval_95


@pytest.mark.parametrize("pictures", [1, 2, 20, 263, 10_000, 1_000_000])
def test_the_interval_is_scipys(pictures):
    for right in {0, 1, pictures // 3, pictures // 2, pictures - 1, pictures}:
        expected = binomtest(right, pictures).proportion_ci(0.95, method="wilson")
        assert interval_95(right, pictures) == pytest.approx((expected.low, expected.high), rel=0, abs=1e-12)
