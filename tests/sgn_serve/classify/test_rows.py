"""Rows of a batch are the service's answers, one by one."""

import numpy as np
import pytest

from sgn_serve.classify.rows import answer_rows
from sgn_serve.inference.classifier import Logits
from sgn_serve.inference.graph import Description, read_graph
from sgn_serve.serving.answers import predict
from tests.sgn_serve.tiny_graph import save_tiny_graph

LOGITS = np.random.default_rng(0).normal(0, 3, (2, 5, 3)).astype(np.float32)
SECOND = np.array([True, False, True, False, False])


@pytest.fixture(scope="module")
def description(tmp_path_factory) -> Description:
    return read_graph(save_tiny_graph(tmp_path_factory.mktemp("tiny") / "tiny.onnx")).description


@pytest.mark.parametrize(
    ("logits", "mode"),
    [
        (Logits(LOGITS[0], None), "off"),
        (Logits(LOGITS[0], LOGITS[1]), "on"),
        (Logits(LOGITS[0], np.where(SECOND[:, None], LOGITS[1], LOGITS[0]), None, SECOND), "auto"),
    ],
)
def test_a_row_has_the_figures_of_the_answer(logits, mode, description):
    rows = answer_rows(list("abcde"), logits, description.class_names, 2, mode)
    for number, row in enumerate(rows):
        answer = predict(logits[number : number + 1], description, 2).model_dump()
        assert row.top_k == answer["top_k"]
        assert (row.label, row.index, row.probability) == (answer["label"], answer["index"], answer["probability"])
        assert row.disagreement == answer["disagreement"]
        assert row.plain_label == (answer["plain"] and answer["plain"]["label"])
        assert (row.path, row.mode, row.error_code) == ("abcde"[number], mode, None)


def test_no_number_is_an_error():
    logits = LOGITS[0].copy()
    logits[1, 2] = np.nan
    with np.errstate(invalid="ignore"):
        rows = answer_rows(list("abcde"), Logits(logits, None), ["r", "g", "b"], 2, "off")
    assert [row.error_code for row in rows] == [None, "internal_error", None, None, None]
    assert rows[1].label is None
