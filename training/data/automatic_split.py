"""Divide a folder that holds nothing but class folders into a part to train on and a part to judge on.

The part of a picture depends on its content and a seed alone. Neither its name, nor the order of a listing, nor other
pictures move it, because the bounds between the parts are saved with the network.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "test"]

TEST_SHARE = 0.2
_DIGITS = 16
"""Hexadecimal digits of a key: 64 bits, so that two pictures of a folder never share one by chance."""
_CHUNK = 1000


@dataclass(frozen=True)
class AutomaticSplit:
    """A stratified split by content.

    Attributes:
        test_share: Share of each class that is judged on, in (0, 1).
        seed: Seed of the draw.
        bounds: The key of each class's last test picture, in the order of the classes. Empty before they are known.
    """

    test_share: float = TEST_SHARE
    seed: int = 0
    bounds: tuple[str, ...] = ()

    @classmethod
    def from_values(cls, values: Any) -> "AutomaticSplit":
        """Return the split that as_values described.

        Raises:
            ValueError: The values are anything else.
        """
        if not isinstance(values, dict) or set(values) != {"test_share", "seed", "bounds"}:
            raise ValueError("its fields are not test_share, seed and bounds")
        share, seed, bounds = values["test_share"], values["seed"], values["bounds"]
        if not isinstance(share, int | float) or not 0 < share < 1 or type(seed) is not int:
            raise ValueError("its test_share is not between 0 and 1, or its seed is no whole number")
        if not isinstance(bounds, list) or not bounds or not all(isinstance(bound, str) for bound in bounds):
            raise ValueError("its bounds are no list of texts")
        return cls(float(share), seed, tuple(bounds))

    def as_values(self) -> dict[str, Any]:
        """Return what from_values reads."""
        return {"test_share": self.test_share, "seed": self.seed, "bounds": list(self.bounds)}

    def key(self, path: Path) -> str:
        """Return what decides the part of a picture: a digest of the seed and the file's content.

        Raises:
            OSError: The file cannot be read.
        """
        digest = hashlib.sha256(f"{self.seed}\0".encode())
        digest.update(path.read_bytes())
        return digest.hexdigest()[:_DIGITS]

    def bound(self, keys: Sequence[str]) -> str:
        """Return the key of a class's last test picture: the share of its pictures with the lowest keys.

        Files of one content count once, because they belong to one part. At least one of them is for each part.

        Args:
            keys: The keys of the pictures of a class, of two contents at least.
        """
        distinct = sorted(set(keys))
        count = min(max(1, round(self.test_share * len(distinct))), len(distinct) - 1)
        return distinct[count - 1]

    def keys(self, paths: Sequence[Path]) -> list[str]:
        """Return the key of each file, read by several threads."""
        with ThreadPoolExecutor() as pool:
            chunks = (paths[first : first + _CHUNK] for first in range(0, len(paths), _CHUNK))
            return [key for chunk in chunks for key in pool.map(self.key, chunk)]


@dataclass(frozen=True)
class Part:
    """The part of a data set that is wanted.

    Attributes:
        name: "train" or "test".
        of: How a folder without train/ and test/ is divided. None takes all of it for the test part.
    """

    name: Split
    of: AutomaticSplit | None = AutomaticSplit()
