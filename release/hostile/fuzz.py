"""Send mutated files of every format to a server, find the costly ones, and measure those again alone."""

import json
import lzma
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.errors import BenchmarkError
from release.hostile.client import Answer, many_pictures, one_picture
from release.hostile.corpus import Corpus, Kept
from release.hostile.observer import BUCKET_SECONDS, Window
from release.hostile.recipes import Recipe, digest, from_bomb, from_seed
from release.hostile.session import MANY, Session
from training.common.files import write_atomically

IN_FLIGHT = 4
"""Requests that are answered at the same time while files are tried, unless the command says otherwise."""
TOGETHER = 64
"""Files that are sent before anything is measured again."""
MEASURED_AGAIN = 5
"""Files of those that are measured alone, at most."""
SUSPICIOUS_SECONDS = 0.3
SUSPICIOUS_MEGABYTES = 30.0
AGAIN_SHARE = 0.8
"""Share of the worst cost so far from which on a file is measured alone."""
BOMBS_SHARE = 0.03
COSTLY_SHARE = 0.02
ANSWERS_SHARE = 0.35
"""Shares of constructed files, of mutations of the costly ones kept, and of mutations of others kept."""
WORST_KEPT = 3
"""Files of a format, the worst by memory and the worst by time, that are sent together at the end."""
CROWDS = (128, 390)
"""Requests at a time, of the very worst files. With more, the server would refuse connections (SGN_MAX_CONNECTIONS)."""


@dataclass
class Tally:
    """Counts and worst costs of one format so far.

    Attributes:
        files: How many files were sent.
        statuses: How many answers had each status.
        codes: How many had each error's code.
        faults: How many were the server's fault.
        busy: How often the server said that it was busy. The file was then sent again.
        fault_recipes: The first files that led to a fault.
        measured_alone: How many files were measured alone.
        worst_megabytes: The largest cost of one file alone, with its recipe, digest and bytes.
        worst_seconds: The longest answer to one file alone, likewise.
        above_idle: The largest memory of the server beyond idle while files of the format were tried, in megabytes.
        small_seconds: How long a small picture beside them waited at most.
        small_refused: How many small pictures were refused because the server was busy.
        small_failed: How many small pictures got another answer, or none.
        together: Cost of the worst files when they were sent together.
        commit: The version that was tried.
    """

    files: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    faults: int = 0
    busy: int = 0
    fault_recipes: list[str] = field(default_factory=list)
    measured_alone: int = 0
    worst_megabytes: dict[str, Any] = field(default_factory=lambda: {"megabytes": 0.0})
    worst_seconds: dict[str, Any] = field(default_factory=lambda: {"seconds": 0.0})
    above_idle: float = 0.0
    small_seconds: float = 0.0
    small_refused: int = 0
    small_failed: int = 0
    together: dict[str, Any] = field(default_factory=dict)
    commit: str = ""

    def count(self, recipe: Recipe, answer: Answer) -> None:
        """Count an answer."""
        self.files += 1
        self.busy += answer.refusals
        for counts, key in ((self.statuses, str(answer.status)), (self.codes, answer.code)):
            if key:
                counts[key] = counts.get(key, 0) + 1
        if answer.fault:
            self.faults += 1
            if len(self.fault_recipes) < 20:
                self.fault_recipes.append(f"{answer.status} {answer.code}: {recipe}")

    def see(self, window: Window, idle: float) -> None:
        """Take in what was observed while files of the format were tried."""
        self.above_idle = round(max(self.above_idle, window.peak - idle), 1)
        self.small_seconds = round(max(self.small_seconds, window.small_seconds), 3)
        self.small_refused += window.small_refused
        self.small_failed += window.small_failed


class Fuzzer:
    """Tries files on a server.

    Args:
        session: The server.
        corpus: The kept files.
        work: Folder for the list of all files that were sent.
        seed: Seed of the choice of files.
        planned: Recipes to send instead of new ones, by format.
        in_flight: Requests that are answered at the same time while files are tried.
    """

    def __init__(
        self,
        session: Session,
        corpus: Corpus,
        work: Path,
        seed: int,
        planned: dict[str, list[Recipe]] | None = None,
        in_flight: int = IN_FLIGHT,
    ):
        self._session = session
        self._corpus = corpus
        self._sent = work / "sent.jsonl"
        self._seed = seed
        self._planned = planned
        self._in_flight = in_flight

    def round(self, file_format: str, number: int, tally: Tally, count: int) -> None:
        """Send some files of a format, and measure alone those that seem costly or that got a new kind of answer.

        Args:
            file_format: Pillow's name of the format.
            number: The round's number, from which with the seed the choice follows.
            tally: Figures of the format so far, which are renewed.
            count: The number of files.
        """
        random = Random(f"{self._seed} {file_format} {number}")
        recipes = [self._choose(file_format, random, tally.files + place) for place in range(count)]
        files = [recipe.build(self._corpus.files) for recipe in recipes]
        self._session.wait_until_quiet()  # leftovers of a round of another format do not count for this one
        self._session.window()
        answers = self._session.send([one_picture(data) for data in files], self._in_flight)
        window = self._session.window()
        tally.see(window, self._session.idle)
        for recipe, answer in zip(recipes, answers, strict=True):
            tally.count(recipe, answer)
        self._note(recipes, files, answers)
        for place in self._suspicious(answers, window, tally):
            self._measure(recipes[place], files[place], tally)
        for recipe, data, answer in zip(recipes, files, answers, strict=True):
            if self._corpus.is_new(file_format, answer.kind):
                self._corpus.add(Kept(str(recipe), digest(data), len(data), answer.kind), data)
        self._corpus.save()

    def _choose(self, file_format: str, random: Random, place: int) -> Recipe:
        if self._planned is not None:
            return self._planned[file_format][place]
        draw = random.random()
        if draw < BOMBS_SHARE:
            return from_bomb(file_format, random)
        costly = draw < BOMBS_SHARE + COSTLY_SHARE
        if draw < BOMBS_SHARE + COSTLY_SHARE + ANSWERS_SHARE:
            parent = self._corpus.parent(file_format, costly, random)
            if parent is not None:
                return parent.changed(random, 3)
        return from_seed(file_format, random)

    def _suspicious(self, answers: Sequence[Answer], window: Window, tally: Tally) -> list[int]:
        """Return which files were slow, or were being answered while the memory was high, the worst first."""
        lowest = min(window.buckets.values(), default=0.0)
        enough_seconds = max(SUSPICIOUS_SECONDS, AGAIN_SHARE * tally.worst_seconds["seconds"])
        enough_memory = max(SUSPICIOUS_MEGABYTES, AGAIN_SHARE * tally.worst_megabytes["megabytes"])
        found: dict[int, float] = {}
        for place, answer in enumerate(answers):
            if answer.status == 0 or answer.seconds > enough_seconds:
                found[place] = answer.seconds / enough_seconds
        for bucket, megabytes in sorted(window.buckets.items(), key=lambda item: -item[1])[:5]:
            if megabytes - lowest < enough_memory:
                break
            moment = bucket * BUCKET_SECONDS
            for place, answer in enumerate(answers):
                if answer.began <= moment + BUCKET_SECONDS and moment <= answer.began + answer.seconds:
                    found[place] = max(found.get(place, 0.0), (megabytes - lowest) / enough_memory)
        return sorted(found, key=lambda place: -found[place])[:MEASURED_AGAIN]

    def _measure(self, recipe: Recipe, data: bytes, tally: Tally) -> None:
        cost, (answer,) = self._session.cost([one_picture(data)])
        tally.measured_alone += 1
        tally.above_idle = max(tally.above_idle, cost.above_idle)
        tally.small_seconds = max(tally.small_seconds, cost.small_seconds)
        about = {"recipe": str(recipe), "digest": digest(data), "bytes": len(data), "status": answer.status}
        figures = {"megabytes": cost.megabytes, "seconds": cost.seconds}
        worse = cost.megabytes > tally.worst_megabytes["megabytes"]
        if worse:
            tally.worst_megabytes = about | figures
        if cost.seconds > tally.worst_seconds["seconds"]:
            tally.worst_seconds = about | figures
            worse = True
        costly = cost.megabytes > SUSPICIOUS_MEGABYTES or cost.seconds > SUSPICIOUS_SECONDS
        if worse or costly or self._corpus.is_new(recipe.file_format, answer.kind):
            self._corpus.add(
                Kept(str(recipe), digest(data), len(data), answer.kind, cost.megabytes, cost.seconds), data
            )

    def _note(self, recipes: Sequence[Recipe], files: Sequence[bytes], answers: Sequence[Answer]) -> None:
        """Add to the list of all files: recipe, first digits of the digest, status and code of each."""
        with self._sent.open("a") as output:
            for recipe, data, answer in zip(recipes, files, answers, strict=True):
                output.write(json.dumps([str(recipe), digest(data)[:8], answer.status, answer.code]) + "\n")

    def together(self, file_format: str, tally: Tally) -> None:
        """Send the worst kept files of a format many at a time: in one request, and in 16 to hundreds of requests."""
        kept = self._corpus.kept.get(file_format, [])
        worst = {one.digest: one for one in sorted(kept, key=lambda one: -one.megabytes)[:WORST_KEPT]}
        worst |= {one.digest: one for one in sorted(kept, key=lambda one: -one.seconds)[:WORST_KEPT]}
        measured = [one for one in worst.values() if one.seconds] or kept[:1]
        files = [self._corpus.data(one) for one in measured]
        crowded = {
            self._corpus.data(max(measured, key=lambda one: one.megabytes)),
            self._corpus.data(max(measured, key=lambda one: one.seconds)),
        }
        for name, requests in (
            ("16 in one request", [[many_pictures(([data] * MANY)[: _fitting(data)])] for data in files]),
            ("16 requests", [[one_picture(data)] * MANY for data in files]),
            ("32 requests", [[one_picture(data)] * (2 * MANY) for data in files]),
            *((f"{crowd} requests", [[one_picture(data)] * crowd for data in crowded]) for crowd in CROWDS),
        ):
            for sent in requests:
                cost, _ = self._session.cost(sent, insist=False)
                tally.together[name] = _worse(tally.together.get(name), asdict(cost))


def _fitting(data: bytes, most: int = 10 * 1024 * 1024 - 10_000) -> int:
    """Return how many of a file fit into one request."""
    return max(1, min(MANY, most // (len(data) + 200)))


def _worse(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """Return the larger of each figure of two costs, the sums of their counts, and the profile of the slower one."""
    if one is None:
        return other
    counts = ("faults", "small_refused", "small_failed")
    merged = {name: max(one[name], other[name]) for name in other if name not in ("statuses", *counts)}
    merged |= {name: max(one, other, key=lambda cost: cost["seconds"])[name] for name in PROFILE}
    statuses = Counter(one["statuses"]) + Counter(other["statuses"])
    sums = {name: one[name] + other[name] for name in counts}
    return merged | sums | {"statuses": dict(sorted(statuses.items()))}


PROFILE = ("elapsed", "server_cores", "sender_cores")
"""Figures of a cost that belong together."""


def trim_list(work: Path, counted: Mapping[str, int]) -> None:
    """Take the files off the list that were sent but not counted, because the run was stopped in between."""
    path, left = work / "sent.jsonl", dict(counted)
    if not path.is_file():
        return
    lines = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            name = json.loads(line)[0].partition(" ")[0]
        except ValueError:  # it was killed while it wrote the last line
            continue
        left[name] = left.get(name, 0) - 1
        if left[name] >= 0:
            lines.append(line)
    write_atomically(path, b"".join(lines))


def pack_list(work: Path, target: Path) -> int:
    """Write the list of all files that were sent, compressed, and return how many they are."""
    lines = (work / "sent.jsonl").read_bytes()
    write_atomically(target, lzma.compress(lines, preset=9))
    return lines.count(b"\n")


def read_list(path: Path) -> dict[str, list[Recipe]]:
    """Return the recipes of a list that pack_list wrote, by format.

    Raises:
        BenchmarkError: It is no such list.
    """
    found: dict[str, list[Recipe]] = {}
    try:
        for line in lzma.decompress(path.read_bytes()).splitlines():
            recipe = Recipe.parse(json.loads(line)[0])
            found.setdefault(recipe.file_format, []).append(recipe)
    except (lzma.LZMAError, TypeError, IndexError, ValueError) as error:
        raise BenchmarkError(f"{path}: no list of files that were sent ({error}); name another --replay") from None
    return found
