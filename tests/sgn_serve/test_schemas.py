import numpy as np
import pytest

from sgn_serve.graph import Description
from sgn_serve.runtime import Logits
from sgn_serve.schemas import predict, softmax

DESCRIPTION = Description(("a", "b", "c"), (8, 8), "f" * 64, has_block=True)


def logits(*values):
    return np.log(np.array([values], np.float32))


def test_softmax_of_large_logits_is_finite():
    np.testing.assert_allclose(softmax(np.float32([1000, 1000])), [0.5, 0.5])


def test_block_on():
    answer = predict(Logits(logits(0.5, 0.3, 0.2), logits(0.1, 0.3, 0.6)), DESCRIPTION, top_k=2)
    assert (answer.label, answer.index) == ("c", 2)
    assert answer.probability == pytest.approx(0.6)
    assert [entry.label for entry in answer.top_k] == ["c", "b"]
    assert answer.self_gradient
    assert answer.plain.label == "a"
    assert answer.plain.probability == pytest.approx(0.5)
    assert answer.disagreement.total_variation == pytest.approx(0.4)
    assert answer.disagreement.label_changed
    assert answer.model == "f" * 64


def test_block_off():
    answer = predict(Logits(logits(0.5, 0.3, 0.2), None), DESCRIPTION, top_k=5)
    assert answer.label == "a"
    assert len(answer.top_k) == 3, "no more than there are classes"
    assert not answer.self_gradient
    assert answer.plain is None
    assert answer.disagreement is None


def test_equal_answers_do_not_disagree():
    same = logits(0.5, 0.3, 0.2)
    answer = predict(Logits(same, same), DESCRIPTION, top_k=1)
    assert answer.disagreement.total_variation == 0
    assert not answer.disagreement.label_changed
