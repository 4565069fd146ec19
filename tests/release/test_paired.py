"""Comparisons of two networks, picture by picture."""

import pytest

from release.paired import compare, in_words


def test_wins_and_losses_are_counted_picture_by_picture():
    first = [True, True, True, False, True, False]
    second = [True, False, False, True, False, False]
    assert compare(first, second) == {"accuracy": [4 / 6, 2 / 6], "won": 3, "lost": 1, "p": 0.625}
    assert compare(second, first) == {"accuracy": [2 / 6, 4 / 6], "won": 1, "lost": 3, "p": 0.625}
    assert compare(first, first)["p"] == 1
    with pytest.raises(ValueError, match="zip"):
        compare(first, second[:-1])


def test_a_small_probability_is_told_as_a_bound():
    assert in_words({"won": 3, "lost": 1, "p": 0.625}) == "3 won, 1 lost, p = 0.62"
    assert in_words({"won": 30, "lost": 1, "p": 0.0099}) == "30 won, 1 lost, p < 0.01"
    assert in_words({"won": 30, "lost": 1, "p": 0.01}) == "30 won, 1 lost, p = 0.01"
