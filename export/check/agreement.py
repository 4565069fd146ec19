"""Measure how often a graph in reduced precision gives the float32 network's answer, on clean and attacked pictures."""

import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from export.check.verify import GraphRunner
from export.options import ENOUGH_PICTURES
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS
from training.attacks.projected_gradient import ProjectedGradientAscent
from training.attacks.views import held_view
from training.networks.self_gradient import SelfGradientNetwork

STEPS = 20
STEP_SIZE = 2 / 255
BATCH = 50


@dataclass(frozen=True)
class Agreement:
    """Shares of pictures, in [0, 1], that a graph puts into the same class as the float32 network does.

    Attributes:
        output: LOGITS (block on) or PLAIN_LOGITS (block off).
        pictures: Number of clean pictures; the same pictures were attacked.
        clean: Share of the clean pictures.
        attacked: Share of the pictures after an attack on the float32 network's own answers.
        attack: The attack, in words.
    """

    output: str
    pictures: int
    clean: float
    attacked: float
    attack: str

    @property
    def lowest(self) -> float:
        """The lower of the two shares."""
        return min(self.clean, self.attacked)

    def line(self) -> str:
        """Return the shares as one line of text for a terminal."""
        few = "" if self.pictures >= ENOUGH_PICTURES else f"  (rough: fewer than {ENOUGH_PICTURES:,} pictures)"
        return (
            f"{self.output}: same top-1 as float32 on {self.clean:.2%} of {self.pictures:,} pictures, "
            f"{self.attacked:.2%} of them attacked by {self.attack}{few}"
        )


def agreements_json(agreements: tuple[Agreement, ...]) -> str:
    """Return the agreements as JSON, for a graph's metadata."""
    return json.dumps([asdict(agreement) for agreement in agreements])


def measure_agreement(
    runner: GraphRunner, network: SelfGradientNetwork, pictures: Tensor, eps: float, seed: int = 0
) -> tuple[Agreement, ...]:
    """Compare a graph's answers with the network's, on the pictures and on their PGD-20 versions.

    The attack raises the cross-entropy of the network's own answer, so it needs no labels. It starts at random and
    differentiates the second pass with the first held fixed (training.attacks.views.held_view). The pictures that it
    ends at lie near the boundary between classes, where rounding can change an answer.
    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (2018).

    Args:
        runner: The graph.
        network: The float32 network, in eval mode on the CPU.
        pictures: (N, C, H, W) in [0, 1], real ones.
        eps: L-inf radius of the attack, in units of pixel intensity.
        seed: Seed of the attack's random start.

    Returns:
        One agreement for LOGITS, if there is a block, and one for PLAIN_LOGITS.
    """
    same: dict[str, list[Tensor]] = {}
    view = held_view(network)
    attack = ProjectedGradientAscent(eps=eps, steps=STEPS, step_size=STEP_SIZE, keep_best=False)
    devices = torch.random.fork_rng(devices=[])
    with devices, tqdm(total=len(pictures), desc="top-1 agreement", unit="picture", disable=None) as progress:
        torch.manual_seed(seed)
        for images in torch.split(pictures, BATCH):
            with torch.no_grad():
                labels = network(images).argmax(1)
            attacked = attack.perturb(view, images, labels)
            for kind, batch in (("clean", images), ("attacked", attacked)):
                outputs = runner(batch)
                with torch.no_grad():
                    expected = {LOGITS: network(batch), PLAIN_LOGITS: network.plain_logits(batch)}
                for name in [name for name in (LOGITS, PLAIN_LOGITS) if name in outputs]:
                    equal = outputs[name].argmax(1) == expected[name].argmax(1)
                    same.setdefault(f"{name} {kind}", []).append(equal)
            progress.update(len(images))
    shares = {name: torch.cat(values).double().mean().item() for name, values in same.items()}
    names = dict.fromkeys(key.split()[0] for key in shares)
    attack_name = f"PGD-{STEPS}, L-inf, eps {eps * 255:g}/255, steps of {STEP_SIZE * 255:g}/255, first pass held fixed"
    return tuple(
        Agreement(name, len(pictures), shares[f"{name} clean"], shares[f"{name} attacked"], attack_name)
        for name in names
    )
