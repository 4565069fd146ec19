"""Names of --attacks: single attacks and presets, with what each is for. Nothing here imports PyTorch.

training.attacks.registry builds the attacks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sgn_serve.common.command_parser import did_you_mean
from training.common.errors import TrainingError

PAPER_STEPS = (10, 20, 40, 100)
FEWEST_CLASSES_FOR_DLR = 4
"""AutoAttack's targeted margin loss, which is divided by a difference of logits, looks at the four largest ones."""

NEEDS_BLOCK = "a network with a block"
NEEDS_GRAPH = "--onnx my-model.onnx"
NEEDS_AUTO = "a threshold of self_gradient=auto: --auto-margin 0.08, or the checkpoint's own"


def graph_fix(path: Path) -> str:
    """Return how a missing graph of --onnx is made, for messages."""
    return f"write it with `python -m export --ckpt ... --onnx {path}`"


class AttackError(TrainingError):
    """An attack is unknown or cannot be had here. The message names the known ones or the need."""


@dataclass(frozen=True)
class Description:
    """Description of a name of --attacks.

    Attributes:
        text: One line for --help.
        needs: Needs of the attack; "" for none.
    """

    text: str
    needs: str = ""


ATTACKS = {
    "clean": Description("no attack; always there"),
    "fgsm": Description("one step"),
    "block-off-cw": Description("CW-20 on the block-off network", NEEDS_BLOCK),
    "smooth-cw": Description("CW-20 through the smooth surrogate, for each --beta", NEEDS_BLOCK),
    "smooth-pgd": Description("the same with PGD-20", NEEDS_BLOCK),
    "through-both": Description("CW-20 by double backward; sees the block where activations are smooth", NEEDS_BLOCK),
    "straight-through": Description(
        "CW-20, the block differentiated as if it were the identity, for each --beta", NEEDS_BLOCK
    ),
    "transfer": Description("CW-20 and CW-100 on the block-off network", NEEDS_BLOCK),
    "transfer-from": Description("CW-100 on the network of --transfer-from", "--transfer-from other/model.safetensors"),
    "noise": Description("100 random points of the ball"),
    "averaged": Description("CW-20, gradients averaged over small input noise"),
    "averaged-smooth": Description("CW-20 through the smooth surrogate, averaged over small input noise", NEEDS_BLOCK),
    "restarts": Description("CW-20 with 10, then 10 more restarts"),
    "more-steps": Description("CW-100, then CW-200 on what it left"),
    "apgd-ce": Description("AutoAttack's first"),
    "apgd-t": Description("AutoAttack's second", f"at least {FEWEST_CLASSES_FOR_DLR} classes"),
    "fab-t": Description("AutoAttack's third"),
    "square-cascaded": Description(
        "AutoAttack's fourth, black box, as AutoAttack runs it: on what the other three left"
    ),
    "square": Description("the same alone, on every rightly classified picture"),
    "malt": Description(
        "APGD on the three wrong classes that a linear network would have nearest",
        f"at least {FEWEST_CLASSES_FOR_DLR} classes",
    ),
    "md": Description("a margin's terms one by one, then the whole: margin of logits"),
    "pma": Description("the same with the margin of probabilities"),
    "smooth-apgd-ce": Description("APGD-CE through the smooth surrogate", NEEDS_BLOCK),
    "smooth-apgd-t": Description(
        "APGD-T through the smooth surrogate", f"{NEEDS_BLOCK} and at least {FEWEST_CLASSES_FOR_DLR} classes"
    ),
    "gate": Description(
        "on self_gradient=auto, with its threshold known: both sides of it wrong, over it with a wrong class first, "
        "under it with the second pass wrong; without and with each --beta",
        NEEDS_AUTO,
    ),
    "gate-transfer": Description(
        "CW-100 on the block-on and on the block-off network, shown to self_gradient=auto", NEEDS_AUTO
    ),
    "graph-noise": Description("random points of the ball, on the graph of --onnx", NEEDS_GRAPH),
    "graph-transfer": Description(
        "CW-100 on the checkpoint, without and with each smooth surrogate, shown to that graph", NEEDS_GRAPH
    ),
    "graph-square": Description("Square on that graph, on what the two above left", NEEDS_GRAPH),
}
"""Single attacks by name, in the order of --help; beside them pgd-K and cw-K for any number of steps K."""
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
            "gate",
            "gate-transfer",
        )
    )
)
DEFAULT = ("quick",)
MOST_STEPS = 1_000_000
"""Most steps K of pgd-K and cw-K; a thousand are many."""


PRESET_MEANING = {
    "quick": "block on and off: FGSM, PGD-10, PGD-20, CW-20; the smooth surrogate; transfer from block off",
    "paper": "block on and off: FGSM, PGD-10/20/40/100, CW-10/20/40/100",
    "autoattack": "block on and off: APGD-CE, APGD-T, FAB-T, Square",
    "full": "all of these and every adaptive attack below; every item of the masking checklist",
}

PRESET_CALLS = {"quick": 184, "paper": 684, "autoattack": 13_802, "full": 18_824}
"""Calls of the network by each preset on a picture that withstands everything: 10 classes, a network with a block.

A test compares them with what training.attacks.registry builds.
"""


_STEPS = re.compile(r"(?:pgd|cw)-([1-9][0-9]*)")


def known_names() -> str:
    """Return everything that --attacks may name, as one line."""
    return f"{', '.join(PRESETS)}; pgd-K, cw-K for any number of steps K; {', '.join(ATTACKS)}"


def split_names(names: Sequence[str]) -> list[str]:
    """Return the names that --attacks gives, each of which may be several with commas between them.

    Raises:
        AttackError: There are none, or one is unknown. The message suggests the nearest names.
    """
    slugs = [slug.strip() for name in names for slug in name.split(",") if slug.strip()]
    if not slugs:
        raise AttackError(f"--attacks names none; known are: {known_names()}")
    for slug in slugs:
        if steps := _STEPS.fullmatch(slug):
            digits = steps[1]
            if len(digits) > len(str(MOST_STEPS)) or int(digits) > MOST_STEPS:
                shown = digits if len(digits) < 30 else f"a number of {len(digits)} digits"
                raise AttackError(f"--attacks: pgd-K and cw-K take at most {MOST_STEPS:,} steps, not {shown}")
        if slug not in PRESETS and slug not in ATTACKS and family_and_steps(slug) is None:
            digits = "".join(letter for letter in slug if letter.isascii() and letter.isdigit()).lstrip("0") or "20"
            suggested = did_you_mean(slug, (*PRESETS, *ATTACKS, f"pgd-{digits}", f"cw-{digits}"))
            raise AttackError(f"unknown attack {slug!r}; {suggested}known are: {known_names()}")
    return slugs


def family_and_steps(slug: str) -> tuple[str, int] | None:
    """Return the family and the steps that pgd-K or cw-K stand for; None for any other name."""
    found = _STEPS.fullmatch(slug)
    return None if found is None else (slug.partition("-")[0], int(found[1]))
