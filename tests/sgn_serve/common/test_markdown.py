import pytest

from sgn_serve.common.markdown import table


def test_a_table_has_a_rule_that_aligns_its_columns():
    assert table(["attack", "accuracy, %"], [["clean", "74.3"], ["FGSM", "45.4"]], "lr").splitlines() == [
        "| attack | accuracy, % |",
        "| --- | ---: |",
        "| clean | 74.3 |",
        "| FGSM | 45.4 |",
    ]


@pytest.mark.parametrize(
    ("rows", "align"), [([["clean"]], "lr"), ([["clean", "74.3"]], "l"), ([["a", "b", "c"]], "lr")]
)
def test_rows_of_another_width_are_refused(rows, align):
    with pytest.raises(ValueError, match="must have 2 columns"):
        table(["attack", "accuracy, %"], rows, align)
