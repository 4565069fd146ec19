"""The attacks that `--attacks` knows, by name, and the presets made of them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.attacks import gradient_attack
from training.attacks.auto_attack import AUTO_ATTACK, FEWEST_CLASSES_FOR_DLR, MOST_TARGETS, GradientStage, Square
from training.attacks.base import AttackOn
from training.attacks.black_box import RandomNoise, Transfer
from training.attacks.exported_graph import OnExportedGraph
from training.attacks.gradient_attack import Attack
from training.attacks.rows import MORE_RESTARTS, MORE_STEPS, row_key
from training.networks.self_gradient import SelfGradientNetwork

AnyAttack = AttackOn[Any]

PAPER_STEPS = (10, 20, 40, 100)
AVERAGED_BETA = 400.0
AUTO_ATTACK_ROWS = ("clean", "APGD-*", "FAB-T", "Square")


@dataclass(frozen=True)
class Source:
    """Another network whose adversarial pictures are shown to the one under test."""

    network: SelfGradientNetwork
    title: str
    sha256: str


@dataclass(frozen=True)
class Context:
    """What attacks are built for.

    eps:          L-inf budget, units of pixel intensity
    has_block:    whether the network has one
    classes:      how many
    betas:        sharpness of the smooth surrogates
    restarts:     of PGD-k and CW-k
    checkpoint:   the network under test, as a source for the exported graph; None where no graph is attacked
    graph_sha256: of the exported graph
    transfer:     the --transfer-from network
    queries:      of Square
    """

    eps: float
    has_block: bool
    classes: int
    betas: tuple[float, ...] = (5.0, 20.0, 100.0)
    restarts: int = 1
    checkpoint: Source | None = None
    graph_sha256: str = ""
    transfer: Source | None = None
    queries: int = 5000

    @property
    def in_use(self) -> bool:
        """The block state in which the network is used."""
        return self.has_block

    def states(self) -> tuple[bool, ...]:
        return (True, False) if self.has_block else (False,)


@dataclass(frozen=True)
class Entry:
    """A name of --attacks.

    build: Context -> rows; [] where it does not apply
    needs: says why build gives [], for whoever asked for it by name
    """

    description: str
    build: Callable[[Context], Sequence[AnyAttack]]
    needs: str = ""


def _in_use(attack: Callable[..., Attack]) -> Callable[[Context], Sequence[AnyAttack]]:
    return lambda context: [attack(block=context.in_use)]


def _each_state(attack: Callable[[Context, bool], AnyAttack]) -> Callable[[Context], Sequence[AnyAttack]]:
    return lambda context: [attack(context, block) for block in context.states()]


def _each_beta(attack: Callable[[float], AnyAttack]) -> Callable[[Context], Sequence[AnyAttack]]:
    return lambda context: [attack(beta) for beta in context.betas] if context.has_block else []


def _smooth_pgd(beta: float) -> Attack:
    return Attack(f"PGD-20, smooth surrogate, beta {beta:g}", steps=20, view="smooth", beta=beta)


def _straight_through(beta: float) -> Attack:
    return Attack(
        f"CW-20, straight-through block, beta {beta:g}", loss="margin", steps=20, view="straight-through", beta=beta
    )


def _through_both_passes(block: bool) -> Attack:
    return Attack("CW-20, through both passes", loss="margin", steps=20, view="full", block=block)


def _smooth_stage(algorithm: Any) -> Callable[[float], GradientStage]:
    survivors = (*AUTO_ATTACK_ROWS, "*smooth surrogate*")
    return lambda beta: GradientStage(algorithm, view="smooth", beta=beta, survivors_of=survivors)


def _averaged(context: Context) -> list[Attack]:
    attack = Attack(
        "CW-20, gradients averaged over noise",
        loss="margin",
        steps=20,
        block=context.in_use,
        noise_samples=8,
        noise=context.eps / 4,
    )
    return [attack]


def _averaged_smooth(context: Context) -> list[Attack]:
    """Sharper than any of the usual betas, so nearer to the network; the noise smooths what that leaves rugged."""
    if not context.has_block:
        return []
    attack = Attack(
        f"CW-20, smooth surrogate averaged over noise, beta {AVERAGED_BETA:g}",
        loss="margin",
        steps=20,
        view="smooth",
        beta=AVERAGED_BETA,
        noise_samples=8,
        noise=context.eps / 8,
        survivors_of=("clean", "CW-20*"),
    )
    return [attack]


def _restarts(context: Context) -> list[Attack]:
    first = Attack(
        "CW-20, restarts 1 to 10",
        loss="margin",
        steps=20,
        block=context.in_use,
        restarts=10,
        first_restart=1,
        survivors_of=("clean",),
    )
    return [first, replace(first, name=MORE_RESTARTS, first_restart=11, survivors_of=("clean", first.name))]


def _more_steps(context: Context) -> list[Attack]:
    return [
        gradient_attack.cw(100, context.in_use),
        Attack(MORE_STEPS, loss="margin", steps=200, block=context.in_use, survivors_of=("clean", "CW-100")),
    ]


def _to_the_end(name: str, **options: Any) -> Attack:
    return Attack(name, loss="margin", steps=100, keep_best=False, **options)


def _transfer(context: Context) -> list[AnyAttack]:
    """From the network's own block-off state: today's, stopped where it fools that state, and one to the end."""
    if not context.has_block:
        return []
    to_the_end = _to_the_end("CW-100 to the end, transfer from block off", view="block off")
    return [gradient_attack.block_off_transfer(20), to_the_end]


def _transfer_from(context: Context) -> list[AnyAttack]:
    if context.transfer is None:
        return []
    attack = _to_the_end("CW-100 to the end", block=context.transfer.network.block is not None)
    return [Transfer(context.transfer.network, context.transfer.title, context.transfer.sha256, attack, context.in_use)]


def _apgd_t(context: Context) -> list[AnyAttack]:
    if context.classes < FEWEST_CLASSES_FOR_DLR:
        return []
    return [
        GradientStage("apgd-t", block=block, survivors_of=("clean", *AUTO_ATTACK[:1])) for block in context.states()
    ]


def _smooth_apgd_t(context: Context) -> list[AnyAttack]:
    if context.classes < FEWEST_CLASSES_FOR_DLR or not context.has_block:
        return []
    return [_smooth_stage("apgd-t")(beta) for beta in context.betas]


def _on_graph(*attacks: AnyAttack, context: Context) -> list[AnyAttack]:
    return [OnExportedGraph(attack, context.graph_sha256) for attack in attacks] if context.graph_sha256 else []


def _graph_transfer(context: Context) -> list[AnyAttack]:
    """Pictures made on the checkpoint, by every derivative that the graph has not."""
    if context.checkpoint is None:
        return []
    block = context.in_use
    views = [_to_the_end("CW-100 to the end", block=block)]
    views += [
        _to_the_end(f"CW-100 to the end, smooth surrogate, beta {beta:g}", view="smooth", beta=beta)
        for beta in (context.betas if context.has_block else ())
    ]
    own = context.checkpoint
    transfers = [Transfer(own.network, own.title, own.sha256, view, block) for view in views]
    return _on_graph(*transfers, context=context)


def _graph_square(context: Context) -> list[AnyAttack]:
    survivors = ("clean", "random noise*", "CW-100 to the end*")
    return _on_graph(Square(context.in_use, context.queries, survivors_of=survivors), context=context)


def _clean(context: Context) -> list[AnyAttack]:
    return [gradient_attack.clean(block) for block in context.states()]


NEEDS_GRAPH = "--onnx my-model.onnx"

ENTRIES: dict[str, Entry] = {
    "clean": Entry("no attack; always there", _clean),
    "fgsm": Entry("one step", _each_state(lambda context, block: gradient_attack.fgsm(context.eps, block))),
    "block-off-cw": Entry(
        "CW-20 on the block-off network",
        lambda context: [gradient_attack.block_off_transfer(20)] if context.has_block else [],
        "a network with a block",
    ),
    "smooth-cw": Entry(
        "CW-20 through the smooth surrogate, for each --beta",
        _each_beta(lambda beta: gradient_attack.smooth_cw(20, beta)),
        "a network with a block",
    ),
    "smooth-pgd": Entry("the same with PGD-20", _each_beta(_smooth_pgd), "a network with a block"),
    "through-both": Entry(
        "CW-20 by double backward; sees the block where activations are smooth",
        lambda context: [_through_both_passes(True)] if context.has_block else [],
        "a network with a block",
    ),
    "straight-through": Entry(
        "CW-20, the block differentiated as if it were the identity, for each --beta",
        _each_beta(_straight_through),
        "a network with a block",
    ),
    "transfer": Entry("CW-20 and CW-100 on the block-off network", _transfer, "a network with a block"),
    "transfer-from": Entry(
        "CW-100 on the network of --transfer-from", _transfer_from, "--transfer-from other/model.safetensors"
    ),
    "noise": Entry("100 random points of the ball", lambda context: [RandomNoise(context.in_use)]),
    "averaged": Entry("CW-20, gradients averaged over small input noise", _averaged),
    "averaged-smooth": Entry(
        "CW-20 through the smooth surrogate, averaged over small input noise",
        _averaged_smooth,
        "a network with a block",
    ),
    "restarts": Entry("CW-20 with 10, then 10 more restarts", _restarts),
    "more-steps": Entry("CW-100, then CW-200 on what it left", _more_steps),
    "apgd-ce": Entry("AutoAttack's first", _each_state(lambda context, block: GradientStage("apgd-ce", block=block))),
    "apgd-t": Entry("AutoAttack's second", _apgd_t, f"at least {FEWEST_CLASSES_FOR_DLR} classes"),
    "fab-t": Entry(
        "AutoAttack's third",
        _each_state(
            lambda context, block: GradientStage("fab-t", block=block, survivors_of=("clean", *AUTO_ATTACK[:2]))
        ),
    ),
    "square-cascaded": Entry(
        "AutoAttack's fourth, black box, as AutoAttack runs it: on what the other three left",
        _each_state(lambda context, block: Square(block, context.queries, survivors_of=("clean", *AUTO_ATTACK[:3]))),
    ),
    "square": Entry(
        "the same alone, on every rightly classified picture",
        _each_state(lambda context, block: Square(block, context.queries)),
    ),
    "smooth-apgd-ce": Entry(
        "APGD-CE through the smooth surrogate", _each_beta(_smooth_stage("apgd-ce")), "a network with a block"
    ),
    "smooth-apgd-t": Entry(
        "APGD-T through the smooth surrogate",
        _smooth_apgd_t,
        f"a network with a block and at least {FEWEST_CLASSES_FOR_DLR} classes",
    ),
    "graph-noise": Entry(
        "random points of the ball, on the graph of --onnx",
        lambda context: _on_graph(RandomNoise(context.in_use), context=context),
        NEEDS_GRAPH,
    ),
    "graph-transfer": Entry(
        "CW-100 on the checkpoint, without and with each smooth surrogate, shown to that graph",
        _graph_transfer,
        NEEDS_GRAPH,
    ),
    "graph-square": Entry("Square on that graph, on what the two above left", _graph_square, NEEDS_GRAPH),
}
ON_GRAPH = ("graph-noise", "graph-transfer", "graph-square")
"""What can be done to a graph without derivatives; all of it where --onnx names a graph and --attacks none of these."""

PRESETS = {
    "quick": ("fgsm", "pgd-10", "pgd-20", "cw-20", "block-off-cw", "smooth-cw"),
    "paper": ("fgsm", *(f"pgd-{steps}" for steps in PAPER_STEPS), *(f"cw-{steps}" for steps in PAPER_STEPS)),
    "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square-cascaded"),
}
PRESETS["full"] = tuple(
    dict.fromkeys(
        (
            *PRESETS["paper"],
            *PRESETS["quick"],
            "noise",
            "transfer",
            "transfer-from",
            "smooth-pgd",
            "straight-through",
            "through-both",
            "averaged",
            "averaged-smooth",
            "more-steps",
            "restarts",
            *PRESETS["autoattack"],
            "square",  # in its place
            "smooth-apgd-ce",
            "smooth-apgd-t",
        )
    )
)
DEFAULT = ("quick",)
_PGD_OR_CW = re.compile(r"(pgd|cw)-([1-9]\d*)")


def known_names() -> str:
    return f"{', '.join(PRESETS)}; pgd-K, cw-K for any number of steps K; {', '.join(ENTRIES)}"


def build_attacks(names: Sequence[str], context: Context) -> list[AnyAttack]:
    """The rows that the names ask for, each once, in order; clean accuracy comes first whatever is asked for.

    Of two of the same name the one that spares fewer pictures stays, in the first one's place.

    raises ValueError, with the known names, for one that is not known, and for one that cannot be had here
    """
    slugs = [slug.strip() for name in names for slug in name.split(",") if slug.strip()]
    if not slugs:
        raise ValueError(f"--attacks names none; known are: {known_names()}")
    if context.graph_sha256 and not any(slug in ON_GRAPH for slug in slugs):
        slugs += ON_GRAPH
    attacks: list[AnyAttack] = [*_clean(context), *_on_graph(gradient_attack.clean(context.in_use), context=context)]
    for slug in slugs:
        if slug in PRESETS:
            attacks += [attack for part in PRESETS[slug] for attack in _rows(part, context)]
            continue
        rows = _rows(slug, context)
        if not rows:
            raise ValueError(f"attack {slug!r} needs {ENTRIES[slug].needs}")
        attacks += rows
    unique: dict[str, AnyAttack] = {}
    for attack in attacks:
        first = unique.setdefault(row_key(attack), attack)
        if set(attack.survivors_of) < set(first.survivors_of):
            unique[row_key(attack)] = attack
    return list(unique.values())


def _rows(slug: str, context: Context) -> Sequence[AnyAttack]:
    match = _PGD_OR_CW.fullmatch(slug)
    if match is not None:
        make = gradient_attack.pgd if match[1] == "pgd" else gradient_attack.cw
        return [replace(make(int(match[2]), block), restarts=context.restarts) for block in context.states()]
    if slug not in ENTRIES:
        raise ValueError(f"unknown attack {slug!r}; known are: {known_names()}")
    return ENTRIES[slug].build(context)


def network_calls(attack: AnyAttack, classes: int) -> int:
    """How often the attack calls the network on a picture that withstands it; one that falls costs less."""
    if isinstance(attack, OnExportedGraph):
        return network_calls(attack.attack, classes)
    if isinstance(attack, Transfer):
        return network_calls(attack.attack, classes)
    if isinstance(attack, Square):
        return attack.queries
    if isinstance(attack, RandomNoise):
        return attack.draws
    if isinstance(attack, GradientStage):
        return attack.iterations * (1 if attack.algorithm == "apgd-ce" else min(MOST_TARGETS, classes - 1))
    if isinstance(attack, Attack):
        return max(1, attack.steps * attack.restarts * attack.noise_samples)
    raise TypeError(f"cannot tell what {attack!r} costs")
