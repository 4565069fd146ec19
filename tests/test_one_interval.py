"""The confidence interval of a judgement is that of a report on classified pictures.

Each has its own function, because serving imports nothing of training.
"""

import pytest

from sgn_serve.classify.report.counts import interval_95
from training.evaluate.report import wilson_interval


@pytest.mark.parametrize("pictures", [1, 2, 20, 263, 10_000, 1_000_000])
def test_both_intervals_agree(pictures):
    for right in {0, 1, pictures // 3, pictures // 2, pictures - 1, pictures}:
        assert interval_95(right, pictures) == pytest.approx(wilson_interval(right, pictures), rel=0, abs=1e-12)
