"""Build the attacks that `--attacks` names, one by one or as presets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.attacks import gradient_attack
from training.attacks.auto_attack import Algorithm, GradientStage, Square
from training.attacks.base import AttackOn
from training.attacks.black_box import RandomNoise, SourceNetwork, Transfer
from training.attacks.exported_graph import OnExportedGraph
from training.attacks.gate import GateAttack, Goal
from training.attacks.gradient_attack import Attack
from training.attacks.malt import Malt
from training.attacks.margin_decomposition import TwoStageMargin
from training.attacks.names import (
    ATTACKS,
    FEWEST_CLASSES_FOR_DLR,
    ON_GRAPH,
    PRESETS,
    AttackError,
    family_and_steps,
    split_names,
)
from training.attacks.rows import AUTO_ATTACK, AUTO_ATTACK_ROWS, CLEAN, RowFilter, RowId
from training.networks.names import SelfGradient

AnyAttack = AttackOn[Any]

AVERAGED_BETA = 400.0


@dataclass(frozen=True)
class Context:
    """The network, the budget and the options that attacks are built for.

    Attributes:
        eps: L-inf budget, units of pixel intensity.
        has_block: Whether the network has a block. If so it is used with its block on.
        classes: Number of classes.
        betas: Sharpness of the smooth surrogates.
        restarts: Restarts of PGD-K and CW-K.
        checkpoint: The network under test, as a source for the exported graph; None where no graph is attacked.
        graph_sha256: SHA-256 of the exported graph, "" where none is attacked.
        transfer: The --transfer-from network.
        queries: Queries of Square.
        auto: Whether the network has a threshold, so that self_gradient="auto" is a network of its own.
    """

    eps: float
    has_block: bool
    classes: int
    betas: tuple[float, ...] = (5.0, 20.0, 100.0)
    restarts: int = 1
    checkpoint: SourceNetwork | None = None
    graph_sha256: str = ""
    transfer: SourceNetwork | None = None
    queries: int = 5000
    auto: bool = False

    def blocks(self) -> tuple[SelfGradient, ...]:
        """Return the block states that can be attacked: on, off and auto, or off alone without a block."""
        return (*self.seeing_blocks(), False)

    def seeing_blocks(self) -> tuple[SelfGradient, ...]:
        """Return the block states in which the block counts: on, and auto where there is a threshold."""
        if not self.has_block:
            return ()
        return (True, "auto") if self.auto else (True,)


@dataclass(frozen=True)
class Entry:
    """A name of --attacks.

    Attributes:
        description: See Description.
        build: Maps a context to rows; [] where the attack does not apply.
        needs: The reason why build gives [], for whoever asked for it by name. See Description.
    """

    description: str
    build: Callable[[Context], Sequence[AnyAttack]]
    needs: str = ""


def _each_block(attack: Callable[[Context, SelfGradient], AnyAttack]) -> Callable[[Context], Sequence[AnyAttack]]:
    return lambda context: [attack(context, block) for block in context.blocks()]


def _each_beta(attack: Callable[[float], Attack | GradientStage]) -> Callable[[Context], Sequence[AnyAttack]]:
    return lambda context: [
        replace(attack(beta), block=block) for block in context.seeing_blocks() for beta in context.betas
    ]


def _clean(context: Context) -> list[AnyAttack]:
    return [gradient_attack.clean_attack(block) for block in context.blocks()]


def _smooth_pgd(beta: float) -> Attack:
    return Attack("pgd", steps=20, view="smooth", beta=beta)


def _straight_through(beta: float) -> Attack:
    return Attack("cw", steps=20, view="straight-through", beta=beta)


def _through_both_passes(context: Context) -> list[Attack]:
    return [Attack("cw", steps=20, view="full")] if context.has_block else []


def _block_off_cw(context: Context) -> list[Attack]:
    return [gradient_attack.block_off_transfer_attack(20, block) for block in context.seeing_blocks()]


def _smooth_stage(algorithm: Algorithm) -> Callable[[float], GradientStage]:
    whole = tuple(RowFilter.like(family=family) for family in AUTO_ATTACK)
    survivors = (CLEAN, *whole, RowFilter.like(view="smooth"))
    return lambda beta: GradientStage(algorithm, view="smooth", beta=beta, survivors_of=survivors)


def _averaged(context: Context) -> list[Attack]:
    return [Attack("cw", steps=20, block=context.has_block, noise_samples=8, noise=context.eps / 4)]


def _averaged_smooth(context: Context) -> list[Attack]:
    """Use a sharper surrogate than any of the usual betas, so nearer to the network; the noise smooths its gradient."""
    if not context.has_block:
        return []
    attack = Attack(
        "cw",
        steps=20,
        view="smooth",
        beta=AVERAGED_BETA,
        noise_samples=8,
        noise=context.eps / 8,
        survivors_of=(CLEAN, RowFilter.like(family="cw", steps=20)),
    )
    return [attack]


def _restarts(context: Context) -> list[Attack]:
    first = Attack("cw", steps=20, block=context.has_block, restarts=10, first_restart=1, survivors_of=(CLEAN,))
    return [first, replace(first, first_restart=11, survivors_of=(CLEAN, RowFilter.exactly(first.id)))]


def _more_steps(context: Context) -> list[Attack]:
    first = gradient_attack.cw_attack(100, context.has_block)
    survivors = (CLEAN, RowFilter.exactly(first.id))
    return [first, replace(first, steps=200, after_steps=100, survivors_of=survivors)]


def _to_the_end(**options: Any) -> Attack:
    return Attack("cw", steps=100, keep_best=False, **options)


def _transfer(context: Context) -> list[AnyAttack]:
    """Attack the network's own block-off state: once until that state is fooled, and once to the end."""
    if not context.has_block:
        return []
    return [gradient_attack.block_off_transfer_attack(20), _to_the_end(view="first-pass")]


def _transfer_from(context: Context) -> list[AnyAttack]:
    if context.transfer is None:
        return []
    attack = _to_the_end(block=context.transfer.network.block is not None)
    return [Transfer(context.transfer, attack, context.has_block)]


def _apgd_t(context: Context) -> list[AnyAttack]:
    if context.classes < FEWEST_CLASSES_FOR_DLR:
        return []
    survivors = (CLEAN, *AUTO_ATTACK_ROWS[:1])
    return [GradientStage("apgd-t", block=block, survivors_of=survivors) for block in context.blocks()]


def _malt(context: Context) -> list[AnyAttack]:
    if context.classes < FEWEST_CLASSES_FOR_DLR:
        return []
    return [Malt(block=block) for block in context.blocks()]


def _smooth_apgd_t(context: Context) -> Sequence[AnyAttack]:
    if context.classes < FEWEST_CLASSES_FOR_DLR or not context.has_block:
        return []
    return _each_beta(_smooth_stage("apgd-t"))(context)


def _gate(context: Context) -> list[AnyAttack]:
    if not context.auto:
        return []
    goals: tuple[Goal, ...] = ("gate-both", "gate-on", "gate-off")
    held = [GateAttack(goal) for goal in goals]
    return [*held, *(GateAttack(goal, beta=beta) for beta in context.betas for goal in goals[:2])]


def _gate_transfer(context: Context) -> list[AnyAttack]:
    """Show auto what was made on either of its sides, to the end."""
    if not context.auto:
        return []
    return [_to_the_end(view="block-on", block="auto"), _to_the_end(view="first-pass", block="auto")]


def _on_graph(*attacks: AnyAttack, context: Context) -> list[AnyAttack]:
    return [OnExportedGraph(attack, context.graph_sha256) for attack in attacks] if context.graph_sha256 else []


def _graph_transfer(context: Context) -> list[AnyAttack]:
    """Show the graph pictures that were made on the checkpoint, with every derivative that the graph lacks."""
    if context.checkpoint is None:
        return []
    attacks = [_to_the_end(block=context.has_block)]
    attacks += [
        _to_the_end(view="smooth", beta=beta, block=context.has_block)
        for beta in (context.betas if context.has_block else ())
    ]
    transfers = [Transfer(context.checkpoint, attack, context.has_block) for attack in attacks]
    return _on_graph(*transfers, context=context)


def _graph_square(context: Context) -> list[AnyAttack]:
    survivors = (CLEAN, RowFilter.like(family="noise"), RowFilter.like(family="cw", steps=100, to_the_end=True))
    return _on_graph(Square(context.has_block, context.queries, survivors), context=context)


_BUILD: dict[str, Callable[[Context], Sequence[AnyAttack]]] = {
    "clean": _clean,
    "fgsm": _each_block(lambda context, block: gradient_attack.fgsm_attack(context.eps, block)),
    "block-off-cw": _block_off_cw,
    "smooth-cw": _each_beta(lambda beta: gradient_attack.smooth_cw_attack(20, beta)),
    "smooth-pgd": _each_beta(_smooth_pgd),
    "through-both": _through_both_passes,
    "straight-through": _each_beta(_straight_through),
    "transfer": _transfer,
    "transfer-from": _transfer_from,
    "noise": lambda context: [RandomNoise(context.has_block)],
    "averaged": _averaged,
    "averaged-smooth": _averaged_smooth,
    "restarts": _restarts,
    "more-steps": _more_steps,
    "apgd-ce": _each_block(lambda context, block: GradientStage("apgd-ce", block=block)),
    "apgd-t": _apgd_t,
    "fab-t": _each_block(
        lambda context, block: GradientStage("fab-t", block=block, survivors_of=(CLEAN, *AUTO_ATTACK_ROWS[:2]))
    ),
    "square-cascaded": _each_block(
        lambda context, block: Square(block, context.queries, (CLEAN, *AUTO_ATTACK_ROWS[:3]))
    ),
    "square": _each_block(lambda context, block: Square(block, context.queries)),
    "malt": _malt,
    "md": _each_block(lambda context, block: TwoStageMargin("md", block=block)),
    "pma": _each_block(lambda context, block: TwoStageMargin("pma", block=block)),
    "smooth-apgd-ce": _each_beta(_smooth_stage("apgd-ce")),
    "smooth-apgd-t": _smooth_apgd_t,
    "gate": _gate,
    "gate-transfer": _gate_transfer,
    "graph-noise": lambda context: _on_graph(RandomNoise(context.has_block), context=context),
    "graph-transfer": _graph_transfer,
    "graph-square": _graph_square,
}
ENTRIES = {name: Entry(about.text, _BUILD[name], about.needs) for name, about in ATTACKS.items()}
"""Every name of ATTACKS with the function that builds its rows."""


def build_attacks(names: Sequence[str], context: Context) -> list[AnyAttack]:
    """Return the attacks that the names ask for, each row once, in order; clean accuracy always comes first.

    If two attacks would fill the same row, the one that spares fewer pictures stays, in the first one's place.

    Args:
        names: Presets and names, each possibly several with commas between them.
        context: The network, the budget and the options.

    Raises:
        AttackError: A name is unknown, or its attack cannot be had here; the message has the known names or the need.
    """
    slugs = split_names(names)
    if context.graph_sha256 and not any(slug in ON_GRAPH for slug in slugs):
        slugs += ON_GRAPH
    attacks: list[AnyAttack] = [
        *_clean(context),
        *_on_graph(gradient_attack.clean_attack(context.has_block), context=context),
    ]
    for slug in slugs:
        if slug in PRESETS:
            attacks += [attack for part in PRESETS[slug] for attack in _rows(part, context)]
            continue
        rows = _rows(slug, context)
        if not rows:
            raise AttackError(f"attack {slug!r} needs {ENTRIES[slug].needs}")
        attacks += rows
    unique: dict[RowId, AnyAttack] = {}
    for attack in attacks:
        first = unique.setdefault(attack.id, attack)
        if set(attack.survivors_of) < set(first.survivors_of):
            unique[attack.id] = attack
    return list(unique.values())


def _rows(slug: str, context: Context) -> Sequence[AnyAttack]:
    steps = family_and_steps(slug)
    if steps is not None:
        make = {"pgd": gradient_attack.pgd_attack, "cw": gradient_attack.cw_attack}[steps[0]]
        return [replace(make(steps[1], block), restarts=context.restarts) for block in context.blocks()]
    return ENTRIES[slug].build(context)
