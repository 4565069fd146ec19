"""Each row that can be built has an identity and a title of its own, and JSON keeps them."""

import json
from collections import Counter
from typing import Any, get_args

import pytest

from training.attacks.black_box import SourceNetwork
from training.attacks.names import PRESETS
from training.attacks.registry import ENTRIES, Context, build_attacks
from training.attacks.rows import CLEAN, STATES, Family, RowFilter, RowId, View, any_matches


def contexts():
    plain, with_block = (type("Network", (), {"block": block})() for block in (None, object()))
    for network, title in ((plain, "standard wrn-10-1"), (with_block, "trades wrn-10-1")):
        for has_block in (True, False):
            yield Context(
                eps=8 / 255,
                has_block=has_block,
                classes=10,
                betas=(1.0, 5.0, 20.0, 100.0, 400.0),
                transfer=SourceNetwork(network, title, "0" * 64),
                checkpoint=SourceNetwork(network, "the checkpoint", "1" * 64),
                graph_sha256="2" * 64,
                auto=has_block,
            )


def one_by_one(context):
    """Every attack that a name of --attacks makes, without those of other names that would fill the same row."""
    names = [*PRESETS, *(f"{family}-{steps}" for family in ("pgd", "cw") for steps in (1, 7, 20, 100, 200))]
    names += [name for name, entry in ENTRIES.items() if entry.build(context)]
    return [attack for name in names for attack in build_attacks([name], context)]


@pytest.fixture(scope="module")
def every():
    """The identity of every row that can be built."""
    return {attack.id for context in contexts() for attack in one_by_one(context)}


def test_every_entry_is_among_them(every):
    families = {row.family for row in every}
    assert families == set(get_args(Family))
    assert {row.view for row in every} == set(get_args(View))
    assert {row.state for row in every} == set(STATES)
    assert {row.kind for row in every} == {"clean", "white-box", "adaptive", "transfer", "black-box"}


@pytest.mark.parametrize("context", list(contexts()), ids=lambda one: f"{one.transfer.title}, {one.has_block}")
def test_attacks_that_do_different_things_have_different_ids(context):
    """Whatever an attack does besides sparing pictures shows in its id, so no two of them share a row."""
    done: dict[Any, Any] = {}
    for attack in one_by_one(context):
        does = json.dumps({**attack.parameters(), "survivors_of": None}, sort_keys=True)
        assert done.setdefault(attack.id, does) == does
    assert len(set(done.values())) == len(done) >= 30, "nor do two rows the same"


def test_titles_are_unique_within_a_state(every):
    assert max(Counter((row.state, row.title) for row in every).values()) == 1
    assert max(Counter(row.label for row in every).values()) == 1


def test_ids_survive_json(every):
    for row in every:
        assert RowId.from_dict(json.loads(json.dumps(row.as_dict()))) == row


def test_ids_say_in_json_only_what_is_not_obvious():
    assert RowId("block on", "clean").as_dict() == {"state": "block on", "family": "clean"}
    row = RowId("block on", "cw", steps=20, restarts=(11, 20))
    assert row.as_dict() == {"state": "block on", "family": "cw", "steps": 20, "restarts": [11, 20]}


@pytest.mark.parametrize(
    ("row", "title", "kind"),
    [
        (RowId("block on", "clean"), "clean", "clean"),
        (RowId("block on", "fgsm"), "FGSM", "white-box"),
        (RowId("block on", "pgd", 20), "PGD-20", "white-box"),
        (RowId("block on", "cw", 20, "full"), "CW-20, through both passes", "white-box"),
        (RowId("block on", "cw", 20, averaged=True), "CW-20, gradients averaged over noise", "white-box"),
        (RowId("block on", "cw", 20, restarts=(1, 10)), "CW-20, restarts 1 to 10", "white-box"),
        (RowId("block on", "cw", 200, after_steps=100), "CW-200, on what withstood CW-100", "white-box"),
        (RowId("block on", "cw", 20, "smooth", 5.0), "CW-20, smooth surrogate, beta 5", "adaptive"),
        (RowId("block on", "apgd-t", view="smooth", beta=5.0), "APGD-T, smooth surrogate, beta 5", "adaptive"),
        (
            RowId("block on", "cw", 20, "smooth", 400.0, averaged=True),
            "CW-20, smooth surrogate averaged over noise, beta 400",
            "adaptive",
        ),
        (RowId("block on", "cw", 20, "straight-through", 0.5), "CW-20, straight-through block, beta 0.5", "adaptive"),
        (RowId("block on", "cw", 20, "first-pass"), "CW-20, transfer from block off", "transfer"),
        (
            RowId("exported graph", "cw", 100, "smooth", 5.0, to_the_end=True, source="the checkpoint"),
            "CW-100 to the end, smooth surrogate, beta 5, transfer from the checkpoint",
            "transfer",
        ),
        (RowId("auto", "cw", 100, "block-on"), "CW-100, transfer from block on", "transfer"),
        (RowId("auto", "gate-both", 50), "both sides of the threshold, 50 steps", "adaptive"),
        (RowId("block on", "fab-t"), "FAB-T", "white-box"),
        (RowId("block on", "square"), "Square", "black-box"),
        (RowId("block on", "noise", 100), "random noise, 100 draws", "black-box"),
    ],
    ids=lambda value: value.title if isinstance(value, RowId) else None,
)
def test_titles_and_kinds(row, title, kind):
    assert (row.title, row.kind) == (title, kind)
    assert row.label == f"{row.state}: {title}"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"state": "block on"}, TypeError),
        ({"state": "block on", "family": "clean", "colour": 1}, TypeError),
        ({"state": "upside down", "family": "clean"}, ValueError),
        ({"state": "block on", "family": "boundary"}, ValueError),
        ({"state": "block on", "family": "pgd"}, ValueError),
        ({"state": "block on", "family": "square", "steps": 3}, ValueError),
        ({"state": "block on", "family": "cw", "steps": 20, "view": "smooth"}, ValueError),
        ({"state": "block on", "family": "cw", "steps": 20, "view": "sideways"}, ValueError),
        ({"state": "block on", "family": "cw", "steps": 20, "beta": 5.0}, ValueError),
    ],
)
def test_what_is_no_identity_is_refused(values, error):
    with pytest.raises(error):
        RowId.from_dict(values)


def test_filters_select_by_the_fields_they_name():
    plain, smooth = RowId("block on", "cw", 20), RowId("block off", "cw", 20, "smooth", 5.0)
    assert RowFilter.like(family="cw", steps=20).matches(plain)
    assert RowFilter.like(family="cw", steps=20).matches(smooth)
    assert not RowFilter.like(family="cw", steps=20).matches(RowId("block on", "cw", 200, after_steps=100))
    assert RowFilter.exactly(plain).matches(RowId("exported graph", "cw", 20))
    assert not RowFilter.exactly(plain).matches(smooth)
    assert any_matches((CLEAN, RowFilter.exactly(smooth)), smooth)
    assert not any_matches((CLEAN, RowFilter.exactly(smooth)), plain)
    assert RowFilter.like(steps=20, family="cw") == RowFilter.like(family="cw", steps=20)
    with pytest.raises(TypeError, match="no field colour"):
        RowFilter.like(colour=1)
