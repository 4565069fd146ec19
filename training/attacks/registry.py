"""Build the attacks that `--attacks` names, one by one or as presets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.attacks import gradient_attack
from training.attacks.auto_attack import FEWEST_CLASSES_FOR_DLR, Algorithm, GradientStage, Square
from training.attacks.base import AttackError, AttackOn
from training.attacks.black_box import RandomNoise, SourceNetwork, Transfer
from training.attacks.exported_graph import OnExportedGraph
from training.attacks.gradient_attack import Attack
from training.attacks.rows import AUTO_ATTACK, AUTO_ATTACK_ROWS, CLEAN, RowFilter, RowId

AnyAttack = AttackOn[Any]

PAPER_STEPS = (10, 20, 40, 100)
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

    def blocks(self) -> tuple[bool, ...]:
        """Return the block states that can be attacked: on and off, or off alone without a block."""
        return (True, False) if self.has_block else (False,)


@dataclass(frozen=True)
class Entry:
    """A name of --attacks.

    Attributes:
        description: One line for --help.
        build: From a context to rows; [] where the attack does not apply.
        needs: The reason why build gives [], for whoever asked for it by name.
    """

    description: str
    build: Callable[[Context], Sequence[AnyAttack]]
    needs: str = ""


def _each_block(attack: Callable[[Context, bool], AnyAttack]) -> Callable[[Context], Sequence[AnyAttack]]:
    return lambda context: [attack(context, block) for block in context.blocks()]


def _each_beta(attack: Callable[[float], AnyAttack]) -> Callable[[Context], Sequence[AnyAttack]]:
    return lambda context: [attack(beta) for beta in context.betas] if context.has_block else []


def _clean(context: Context) -> list[AnyAttack]:
    return [gradient_attack.clean_attack(block) for block in context.blocks()]


def _smooth_pgd(beta: float) -> Attack:
    return Attack("pgd", steps=20, view="smooth", beta=beta)


def _straight_through(beta: float) -> Attack:
    return Attack("cw", steps=20, view="straight-through", beta=beta)


def _through_both_passes(context: Context) -> list[Attack]:
    return [Attack("cw", steps=20, view="full")] if context.has_block else []


def _block_off_cw(context: Context) -> list[Attack]:
    return [gradient_attack.block_off_transfer_attack(20)] if context.has_block else []


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


def _smooth_apgd_t(context: Context) -> list[AnyAttack]:
    if context.classes < FEWEST_CLASSES_FOR_DLR or not context.has_block:
        return []
    return [_smooth_stage("apgd-t")(beta) for beta in context.betas]


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


NEEDS_BLOCK = "a network with a block"
NEEDS_GRAPH = "--onnx my-model.onnx"

ENTRIES: dict[str, Entry] = {
    "clean": Entry("no attack; always there", _clean),
    "fgsm": Entry("one step", _each_block(lambda context, block: gradient_attack.fgsm_attack(context.eps, block))),
    "block-off-cw": Entry("CW-20 on the block-off network", _block_off_cw, NEEDS_BLOCK),
    "smooth-cw": Entry(
        "CW-20 through the smooth surrogate, for each --beta",
        _each_beta(lambda beta: gradient_attack.smooth_cw_attack(20, beta)),
        NEEDS_BLOCK,
    ),
    "smooth-pgd": Entry("the same with PGD-20", _each_beta(_smooth_pgd), NEEDS_BLOCK),
    "through-both": Entry(
        "CW-20 by double backward; sees the block where activations are smooth", _through_both_passes, NEEDS_BLOCK
    ),
    "straight-through": Entry(
        "CW-20, the block differentiated as if it were the identity, for each --beta",
        _each_beta(_straight_through),
        NEEDS_BLOCK,
    ),
    "transfer": Entry("CW-20 and CW-100 on the block-off network", _transfer, NEEDS_BLOCK),
    "transfer-from": Entry(
        "CW-100 on the network of --transfer-from", _transfer_from, "--transfer-from other/model.safetensors"
    ),
    "noise": Entry("100 random points of the ball", lambda context: [RandomNoise(context.has_block)]),
    "averaged": Entry("CW-20, gradients averaged over small input noise", _averaged),
    "averaged-smooth": Entry(
        "CW-20 through the smooth surrogate, averaged over small input noise", _averaged_smooth, NEEDS_BLOCK
    ),
    "restarts": Entry("CW-20 with 10, then 10 more restarts", _restarts),
    "more-steps": Entry("CW-100, then CW-200 on what it left", _more_steps),
    "apgd-ce": Entry("AutoAttack's first", _each_block(lambda context, block: GradientStage("apgd-ce", block=block))),
    "apgd-t": Entry("AutoAttack's second", _apgd_t, f"at least {FEWEST_CLASSES_FOR_DLR} classes"),
    "fab-t": Entry(
        "AutoAttack's third",
        _each_block(
            lambda context, block: GradientStage("fab-t", block=block, survivors_of=(CLEAN, *AUTO_ATTACK_ROWS[:2]))
        ),
    ),
    "square-cascaded": Entry(
        "AutoAttack's fourth, black box, as AutoAttack runs it: on what the other three left",
        _each_block(lambda context, block: Square(block, context.queries, (CLEAN, *AUTO_ATTACK_ROWS[:3]))),
    ),
    "square": Entry(
        "the same alone, on every rightly classified picture",
        _each_block(lambda context, block: Square(block, context.queries)),
    ),
    "smooth-apgd-ce": Entry("APGD-CE through the smooth surrogate", _each_beta(_smooth_stage("apgd-ce")), NEEDS_BLOCK),
    "smooth-apgd-t": Entry(
        "APGD-T through the smooth surrogate",
        _smooth_apgd_t,
        f"{NEEDS_BLOCK} and at least {FEWEST_CLASSES_FOR_DLR} classes",
    ),
    "graph-noise": Entry(
        "random points of the ball, on the graph of --onnx",
        lambda context: _on_graph(RandomNoise(context.has_block), context=context),
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
"""The attacks that need no derivatives of a graph; all are run where --onnx is given and --attacks names none."""

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
            "square",  # takes the cascaded one's place
            "smooth-apgd-ce",
            "smooth-apgd-t",
        )
    )
)
DEFAULT = ("quick",)


def known_names() -> str:
    """Return everything that --attacks may name, as one line."""
    return f"{', '.join(PRESETS)}; pgd-K, cw-K for any number of steps K; {', '.join(ENTRIES)}"


def build_attacks(names: Sequence[str], context: Context) -> list[AnyAttack]:
    """Return the attacks that the names ask for, each row once, in order; clean accuracy always comes first.

    If two attacks would fill the same row, the one that spares fewer pictures stays, in the first one's place.

    Args:
        names: Presets and names, each possibly several with commas between them.
        context: The network, the budget and the options.

    Raises:
        AttackError: A name is unknown, or its attack cannot be had here; the message has the known names or the need.
    """
    slugs = [slug.strip() for name in names for slug in name.split(",") if slug.strip()]
    if not slugs:
        raise AttackError(f"--attacks names none; known are: {known_names()}")
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
    family, _, steps = slug.partition("-")
    make = {"pgd": gradient_attack.pgd_attack, "cw": gradient_attack.cw_attack}.get(family)
    if make is not None and steps.isascii() and steps.isdecimal() and steps[0] != "0":
        return [replace(make(int(steps), block), restarts=context.restarts) for block in context.blocks()]
    if slug not in ENTRIES:
        raise AttackError(f"unknown attack {slug!r}; known are: {known_names()}")
    return ENTRIES[slug].build(context)
