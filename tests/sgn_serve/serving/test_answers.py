import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from sgn_serve.inference.classifier import Logits
from sgn_serve.inference.graph import Description
from sgn_serve.serving.answers import predict

DESCRIPTION = Description(("a", "b", "c"), (8, 8), "f" * 64, has_block=True)


def logits(*values):
    return np.log(np.array([values], np.float32))


def test_block_on():
    answer = predict(Logits(logits(0.5, 0.3, 0.2), logits(0.1, 0.3, 0.6)), DESCRIPTION, top_k=2)
    assert (answer.label, answer.index) == ("c", 2)
    assert answer.probability == pytest.approx(0.6)
    assert [entry.label for entry in answer.top_k] == ["c", "b"]
    assert answer.self_gradient
    assert answer.mode == "on"
    assert answer.plain is not None
    assert answer.plain.label == "a"
    assert answer.plain.probability == pytest.approx(0.5)
    expected = jensenshannon([0.5, 0.3, 0.2], [0.1, 0.3, 0.6], base=2) ** 2
    assert answer.disagreement == pytest.approx(expected, abs=1e-6)
    assert answer.suspicious is None, "nobody has said what is"
    assert answer.model == "f" * 64


def test_block_off():
    answer = predict(Logits(logits(0.5, 0.3, 0.2), None), DESCRIPTION, top_k=5)
    assert answer.label == "a"
    assert len(answer.top_k) == 3, "no more than there are classes"
    assert not answer.self_gradient
    assert answer.mode == "off"
    assert answer.plain is None
    assert answer.disagreement is None
    assert answer.suspicious is None


@pytest.mark.parametrize("ran", [True, False])
def test_auto_says_whether_the_second_pass_ran(ran):
    plain, corrected = logits(0.5, 0.3, 0.2), logits(0.1, 0.3, 0.6)
    auto = Logits(plain, corrected if ran else plain, None, np.array([ran]))
    same_as = predict(Logits(plain, corrected if ran else None), DESCRIPTION, top_k=2)
    answer = predict(auto, DESCRIPTION, top_k=2)
    assert answer.mode == "auto"
    assert answer.self_gradient is ran
    assert answer == same_as.model_copy(update={"mode": "auto"})


def test_equal_answers_do_not_disagree():
    same = logits(0.5, 0.3, 0.2)
    assert predict(Logits(same, same), DESCRIPTION, top_k=1).disagreement == 0


def test_answers_with_nothing_in_common_disagree_by_one_bit():
    first, second = np.array([[200, 0, 0]], np.float32), np.array([[0, 200, 0]], np.float32)
    assert predict(Logits(first, second), DESCRIPTION, top_k=1).disagreement == pytest.approx(1)
    first, second = (
        np.array([[2000, 0, 0]], np.float32),
        np.array([[0, 2000, 0]], np.float32),
    )  # probabilities of exactly zero
    assert predict(Logits(first, second), DESCRIPTION, top_k=1).disagreement == 1


def test_more_disagreement_than_the_limit_is_suspicious():
    both = Logits(logits(0.5, 0.3, 0.2), logits(0.1, 0.3, 0.6))
    bits = predict(both, DESCRIPTION, 1).disagreement
    assert bits is not None
    assert predict(both, DESCRIPTION, 1, max_disagreement=bits - 1e-9).suspicious is True
    assert predict(both, DESCRIPTION, 1, max_disagreement=bits).suspicious is False
    off = Logits(both.plain, None)
    assert predict(off, DESCRIPTION, 1, max_disagreement=0.0).suspicious is None
