import pytest
import torch

from training.attacks.black_box import SourceNetwork
from training.attacks.names import DEFAULT, ON_GRAPH, PRESET_CALLS, PRESETS, AttackError
from training.attacks.registry import ENTRIES, Context, build_attacks
from training.attacks.rows import RowFilter, RowId, State, more_restarts_row, more_steps_row
from training.evaluate.report import Report

EPS = 8 / 255


def ids(names, **options):
    context = Context(**{"eps": EPS, "has_block": True, "classes": 10} | options)
    return [attack.id for attack in build_attacks(names, context)]


def rows(names, **options):
    return [row.label for row in ids(names, **options)]


def test_the_cost_of_presets_that_help_tells_is_what_is_built():
    built = {name: build_attacks([name], Context(eps=EPS, has_block=True, classes=10)) for name in PRESETS}
    assert {name: sum(attack.network_calls(10) for attack in built[name]) for name in PRESETS} == PRESET_CALLS


def test_the_default_has_the_rows_that_results_were_published_with():
    paper = ["clean", "FGSM", "PGD-10", "PGD-20", "CW-20"]
    smooth = [f"block on: CW-20, smooth surrogate, beta {beta}" for beta in (5, 20, 100)]
    expected = [f"block {state}: {name}" for state in ("on", "off") for name in paper]
    assert set(rows(DEFAULT)) == {*expected, *smooth, "block on: CW-20, transfer from block off"}
    assert set(rows(DEFAULT, has_block=False)) == {f"block off: {name}" for name in paper}


def test_the_papers_protocol():
    steps = (10, 20, 40, 100)
    names = ["clean", "FGSM", *(f"PGD-{n}" for n in steps), *(f"CW-{n}" for n in steps)]
    assert [row for row in rows(["paper"]) if row.startswith("block on")] == [f"block on: {name}" for name in names]
    assert set(rows(["paper"])) == {f"block {state}: {name}" for state in ("on", "off") for name in names}


def test_full_has_every_kind_of_attack_and_all_of_the_other_presets(network):
    source = SourceNetwork(network(), "plain", "0" * 64)
    full = rows(["full"], transfer=source)
    for preset in PRESETS:
        assert set(rows([preset])) <= set(full)
    kinds = {row.kind for row in ids(["full"], transfer=source) if row.state == "block on"}
    assert kinds == {"clean", "white-box", "adaptive", "transfer", "black-box"}
    for name in ("APGD-CE", "APGD-T", "FAB-T", "Square"):
        assert f"block on: {name}" in full
        assert f"block off: {name}" in full
    for beta in (5, 20, 100):
        for attack in ("PGD-20", "CW-20", "APGD-CE", "APGD-T"):
            assert f"block on: {attack}, smooth surrogate, beta {beta}" in full
    assert len(full) == len(set(full))


def test_names_can_be_given_in_any_mixture_and_clean_is_always_there():
    assert rows(["pgd-7,square", "cw-3"], has_block=False) == [
        "block off: clean",
        "block off: PGD-7",
        "block off: Square",
        "block off: CW-3",
    ]


def test_square_is_run_on_what_autoattack_left_and_on_every_picture_where_that_is_asked_for():
    def spared(names):
        built = build_attacks(names, Context(eps=EPS, has_block=False, classes=10))
        return [set(attack.survivors_of) for attack in built if attack.id.family == "square"]

    clean = {RowFilter.like(family="clean")}
    left = clean | {RowFilter.like(family=family, view="held") for family in ("apgd-ce", "apgd-t", "fab-t")}
    assert spared(["autoattack"]) == [left]
    assert spared(["square-cascaded"]) == [left]
    for names in (["full"], ["square"], ["autoattack", "square"], ["square", "autoattack"]):
        assert spared(names) == [clean]


@pytest.mark.parametrize("name", ["pgd", "pgd-0", "cw--1", "autoatack", ""])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(AttackError, match="known are: quick, paper") as caught:
        rows([name])
    assert all(entry in str(caught.value) for entry in ENTRIES)


def test_what_cannot_be_had_is_refused_by_name_and_left_out_of_presets():
    with pytest.raises(AttackError, match="'smooth-cw' needs a network with a block"):
        rows(["smooth-cw"], has_block=False)
    with pytest.raises(AttackError, match="at least 4 classes"):
        rows(["apgd-t"], classes=3)
    with pytest.raises(AttackError, match="--transfer-from"):
        rows(["transfer-from"])
    assert not [row for row in rows(["full"], classes=3) if "APGD-T" in row]


def test_an_exported_graph_gets_the_attacks_that_need_answers_only(network):
    source = SourceNetwork(network(), "the checkpoint", "0" * 64)
    built = ids(["fgsm"], checkpoint=source, graph_sha256="1" * 64)
    graph = [row for row in built if row.state == "exported graph"]
    assert graph[0].title == "clean"
    assert {row.kind for row in graph} == {"clean", "transfer", "black-box"}


def test_attacks_on_an_exported_graph_can_be_shared_out(network):
    graph = {"checkpoint": SourceNetwork(network(), "the checkpoint", "0" * 64), "graph_sha256": "1" * 64}

    def on_graph(*names: str) -> set[str]:
        return {row for row in rows(names, **graph) if row.startswith("exported")}

    parts = [on_graph(name) for name in ON_GRAPH]
    assert set.intersection(*parts) == {"exported graph: clean"}
    assert on_graph("fgsm", "graph-square") == {"exported graph: clean", "exported graph: Square"}
    assert set.union(*parts) == on_graph("fgsm") == on_graph("full")
    for name in ON_GRAPH:
        with pytest.raises(AttackError, match=f"'{name}' needs --onnx"):
            rows([name])


def test_square_spares_what_the_exported_graph_already_lost(network):
    context = Context(
        eps=EPS, has_block=True, classes=10, checkpoint=SourceNetwork(network(), "x", "0" * 64), graph_sha256="1" * 64
    )
    attacks = {attack.id: attack for attack in build_attacks(["clean"], context)}
    square = RowId("exported graph", "square")
    report = Report(setting={})
    for index, row in enumerate(row for row in attacks if row.state == square.state and row != square):
        right = torch.ones(10, dtype=torch.bool)
        right[index] = False
        report.add(attacks[row], right, None)
    assert report.survivors(attacks[square], 10).tolist() == [False] * 6 + [True] * 4


def test_calls_of_the_network_are_counted(network):
    source = SourceNetwork(network(), "plain", "0" * 64)
    context = Context(eps=EPS, has_block=True, classes=10, transfer=source, checkpoint=source, graph_sha256="1" * 64)
    calls = {attack.id.label: attack.network_calls(10) for attack in build_attacks(["full"], context)}
    assert calls["block on: PGD-40"] == 40
    assert calls["block on: CW-20, restarts 1 to 10"] == 200
    assert calls["block on: APGD-CE"] == 100
    assert calls["block off: FAB-T"] == 900
    assert calls["exported graph: Square"] == 5000
    assert min(calls.values()) == 1


def test_the_checklists_rows_are_those_that_are_built():
    cases: tuple[tuple[bool, State], ...] = ((True, "block on"), (False, "block off"))
    for block, state in cases:
        built = ids(["more-steps", "restarts"], has_block=block)
        assert more_steps_row(state) in built
        assert more_restarts_row(state) in built
