"""The rows of the referee's table, and the attacks that fit each."""

from dataclasses import dataclass

from training.attacks.rows import State

STATIC, SELF_GRADIENT = "static", "self-gradient"
DENOISER, DENOISER_STATIC = "gradient-denoiser", "denoiser-static"
WHOLE = ("cw-20", "autoattack")
"""Attacks of every row."""
STATIC_TRANSFER = "transfer-apgd-t"
"""APGD-T on the static network, shown to the defence. A rule that trusts the first answer keeps a wrong one too.

Source: Croce et al., Evaluating the Adversarial Robustness of Adaptive Test-time Defenses (2022).
"""
ADAPTIVE = (
    "transfer",
    STATIC_TRANSFER,
    "through-both",
    "straight-through",
    "smooth-cw",
    "smooth-pgd",
    "averaged-smooth",
    "smooth-apgd-ce",
    "smooth-apgd-t",
)
"""Attacks of the rows whose rule uses a gradient, beside those."""
ADAPTIVE_WITHOUT_GRADIENT = ("transfer", STATIC_TRANSFER)
"""Attacks of the rows of the other defences, whose honest derivative hides nothing."""


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Attributes:
        name: Its name.
        about: What it is, for the table.
        trained: What was trained for it.
        state: The state in which its network is attacked.
        adaptive: Names of the adaptive attacks that fit it.
        checkpoint: The option that names the checkpoint with its static network: "ckpt" or "denoiser".
        static: The row of that network, with which it is compared. None for such a row itself.
    """

    name: str
    about: str
    trained: str
    state: State
    adaptive: tuple[str, ...]
    checkpoint: str = "ckpt"
    static: str | None = STATIC


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(STATIC, "the network with its block off", "-", "block off", (), static=None),
        Contender(SELF_GRADIENT, "its block on", "with its block", "block on", ADAPTIVE),
        Contender(
            "anti-adversary",
            "two signed steps of 0.15 towards its own first answer",
            "nothing",
            "block on",
            ADAPTIVE,
        ),
        Contender(
            "energy-step", "one step of 8/255 along the gradient of log-sum-exp", "nothing", "block on", ADAPTIVE
        ),
        Contender(
            "noise-average",
            "control without a gradient: mean over four fixed noises of 8/255",
            "nothing",
            "block on",
            ADAPTIVE_WITHOUT_GRADIENT,
        ),
        Contender(
            DENOISER_STATIC,
            "the network that was trained for gradient-denoiser, alone",
            "the network, with noise",
            "block off",
            (),
            checkpoint="denoiser",
            static=None,
        ),
        Contender(
            DENOISER,
            "the image without its noise, by the gradient of log-sum-exp",
            "its static network",
            "block on",
            ADAPTIVE,
            checkpoint="denoiser",
            static=DENOISER_STATIC,
        ),
    )
}
