"""Say in a line how a hostile file is made, so that it can be made again bit by bit."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from release.hostile.bombs import BOMBS, bomb
from release.hostile.mutators import MUTATORS, mutate
from release.hostile.seeds import seeds

SEED, BOMB, FILE = "seed", "bomb", "file"
NUMBERS = 1 << 20
"""Numbers that a step may follow from. Larger ones would double the size of a list of thousands of files."""
MOST_STEPS = 12
"""Changes that a file is made by, at most. After a hundred changes hardly a picture is left."""


@dataclass(frozen=True)
class Recipe:
    """A recipe for a file: one that exists, and the mutations of it.

    Attributes:
        file_format: Pillow's name of the format.
        base: "seed 3", "bomb png_pixels 17" or "file DIGEST", a file of the corpus.
        steps: Name and number of each mutation, in order.
    """

    file_format: str
    base: str
    steps: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        """Return it as one line."""
        return ", ".join([f"{self.file_format} {self.base}", *(f"{name} {number}" for name, number in self.steps)])

    @classmethod
    def parse(cls, line: str) -> "Recipe":
        """Return the recipe that a line tells.

        Raises:
            ValueError: It tells none.
        """
        first, *steps = line.split(", ")
        file_format, _, base = first.partition(" ")
        bombs = "|".join(BOMBS.get(file_format, ()))
        known = re.fullmatch(rf"seed \d+|bomb ({bombs}) \d+|file [0-9a-f]{{16}}", base)
        pairs = [re.fullmatch(r"(\w+) (\d+)", step) for step in steps]
        if file_format not in BOMBS or not known or any(pair is None or pair[1] not in MUTATORS for pair in pairs):
            raise ValueError(f"no recipe of a file: {line[:200]!r}")
        return cls(file_format, base, tuple((pair[1], int(pair[2])) for pair in pairs if pair is not None))

    def build(self, files: Mapping[str, bytes] | None = None) -> bytes:
        """Return the file.

        Args:
            files: The corpus' files by digest, for a recipe that begins with one.
        """
        kind, *rest = self.base.split(" ")
        small = seeds(self.file_format)
        if kind == SEED:
            data = small[int(rest[0])]
        elif kind == BOMB:
            data = bomb(self.file_format, rest[0], int(rest[1]))
        else:
            data = (files or {})[rest[0]]
        for name, number in self.steps:
            other = small[number % len(small)] if small else data
            data = mutate(name, number, data, self.file_format, other)
        return data

    def changed(self, random: Random, most: int) -> "Recipe":
        """Return the recipe with one to `most` further steps."""
        room = max(0, MOST_STEPS - len(self.steps))
        count = min(room, 1 if random.random() < 0.5 else random.randint(1, most))
        further = tuple((random.choice(list(MUTATORS)), random.randrange(NUMBERS)) for _ in range(count))
        return replace(self, steps=self.steps + further)


def from_seed(file_format: str, random: Random) -> Recipe:
    """Return the recipe of a mutated small picture."""
    plain = Recipe(file_format, f"{SEED} {random.randrange(len(seeds(file_format)))}")
    return plain.changed(random, 5)


def from_bomb(file_format: str, random: Random) -> Recipe:
    """Return the recipe of a constructed file, one in four of which is mutated too."""
    name = random.choice(list(BOMBS[file_format]))
    plain = Recipe(file_format, f"{BOMB} {name} {random.randrange(NUMBERS)}")
    return plain.changed(random, 2) if random.random() < 0.25 else plain


def digest(data: bytes) -> str:
    """Return the first 16 digits of a file's SHA-256, which name it."""
    return hashlib.sha256(data).hexdigest()[:16]
