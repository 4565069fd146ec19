"""How often a graph in reduced precision gives the float32 network's answer, on pictures as they are and attacked."""

import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from export.check.verify import Run
from training.attacks.pgd import ProjectedGradientAscent
from training.attacks.views import held_view
from training.networks.self_gradient import SelfGradientNetwork

ENOUGH_PICTURES = 1000
STEPS = 20
STEP_SIZE = 2 / 255
BATCH = 50


@dataclass(frozen=True)
class Agreement:
    """Shares of pictures, in [0, 1], that a graph puts into the same class as the float32 network does.

    output:   logits (block on) or plain_logits (block off)
    pictures: how many, as they are; as many again after an attack on the float32 network's own answers
    clean,
    attacked: the shares
    attack:   what the attacked ones withstood or did not
    """

    output: str
    pictures: int
    clean: float
    attacked: float
    attack: str

    @property
    def lowest(self) -> float:
        return min(self.clean, self.attacked)

    def line(self) -> str:
        few = "" if self.pictures >= ENOUGH_PICTURES else f"  (rough: fewer than {ENOUGH_PICTURES:,} pictures)"
        return (
            f"{self.output}: same top-1 as float32 on {self.clean:.2%} of {self.pictures:,} pictures, "
            f"{self.attacked:.2%} of them attacked by {self.attack}{few}"
        )


def agreements_json(agreements: tuple[Agreement, ...]) -> str:
    """For a graph's metadata."""
    return json.dumps([asdict(agreement) for agreement in agreements])


def measure_agreement(
    run: Run, network: SelfGradientNetwork, pictures: Tensor, eps: float, seed: int = 0
) -> tuple[Agreement, ...]:
    """Compares a graph's answers with the network's, on the pictures and on their PGD-20 versions.

    run:      the graph
    network:  in eval mode on the CPU, float32
    pictures: (N, C, H, W) in [0, 1], real ones
    eps:      L-inf radius of the attack, units of pixel intensity
    returns:  one for `logits`, if there is a block, and one for `plain_logits`

    The attack raises the cross-entropy of the network's own answer, needing no labels, through the second pass with
    the first held fixed (training.attacks.views.held_view), from a random start (Madry et al., 2018): the pictures that
    it
    stops at lie near the boundary between classes, where rounding can change an answer.
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
                outputs = run(batch)
                with torch.no_grad():
                    expected = {"logits": network(batch), "plain_logits": network.plain_logits(batch)}
                for name in [name for name in ("logits", "plain_logits") if name in outputs]:
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
