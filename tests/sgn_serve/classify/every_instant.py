"""End a run before each of its accesses to a file, as a kill would, and resume it. The network is a digest here.

python -m tests.sgn_serve.classify.every_instant FOLDER
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from sgn_serve.classify import run
from sgn_serve.classify.items import Item
from sgn_serve.classify.reading import Reader, Unread
from sgn_serve.classify.rows import Row, error_row
from sgn_serve.inference.graph import read_graph
from sgn_serve.records import ModelCard
from sgn_serve.serving.engine_choice import EngineChoice, choose_engine
from sgn_serve.serving.model_card import model_card
from sgn_serve.settings import Settings
from tests.sgn_serve.tiny_graph import save_tiny_graph

_KILLED = 9
_ANYWHERE = ("os.rename", "os.remove", "os.rmdir")
"""Whatever they change: a folder is removed by names that are relative to it."""
_WATCHED = ("open", "os.mkdir", "os.scandir", "os.listdir")


class Digests:
    """Answers as ChunkClassifier does, with a digest of each file instead of a class."""

    ahead = 2

    def __init__(self, settings: Settings, choice: EngineChoice | None):
        self._reader = Reader(settings.max_bytes)
        self.answered = 0
        graph = read_graph(settings.model_path)
        card = model_card(graph, settings)
        self.choice = choice or choose_engine(graph, settings)
        engine = {"name": self.choice.engine, "providers": [], "precision": "float32", "chosen": "auto", "reason": ""}
        self.card = ModelCard.model_validate({**card.model_dump(), "engine": engine})

    def start(self) -> None:
        """Start nothing: files are read without an engine."""

    def close(self) -> None:
        self._reader.close()

    def submit(self, items: Sequence[Item]) -> "Future[list[Row]]":
        future: Future[list[Row]] = Future()
        contents = self._reader.read_some(items, 1 << 30)
        future.set_result([_row(item.name, content) for item, content in zip(items, contents, strict=True)])
        return future


def _row(name: str, content: bytes | Unread) -> Row:
    if isinstance(content, Unread):
        return error_row(name, "off", content.code, content.message)
    return Row(name, hashlib.sha256(content).hexdigest(), 0, 1.0, [], None, None, "off", None, None)


def _child(work: Callable[[], None]) -> int:
    """Run something in a fork, and return its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path) -> None:
    setattr(run, "ChunkClassifier", Digests)  # noqa: B010 (its type is another one)
    files = folder / "files"
    files.mkdir()
    for number in range(7):
        (files / f"{number}.png").write_bytes(b"%d" % number if number % 3 else b"")
    settings = Settings(model_path=save_tiny_graph(folder / "tiny.onnx"))
    outputs = folder / "outputs"
    outputs.mkdir()

    def classify(name: str) -> None:
        run.classify(run.Options([str(files)], outputs / name, None, 3, True, False), settings)

    def killed_at(instant: int, name: str) -> None:
        seen = 0

        def look(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            ours = event in _WATCHED and str(arguments[0]).startswith((str(outputs), str(files)))
            if ours or event in _ANYWHERE:
                seen += 1
                if seen == instant:
                    os._exit(_KILLED)

        sys.addaudithook(look)
        classify(name)

    assert _child(lambda: classify("whole.csv")) == 0
    whole = (outputs / "whole.csv").read_bytes()
    instant, different, status = 0, [], _KILLED
    while status == _KILLED:
        instant += 1
        name = f"{instant}.csv"
        status = _child(lambda instant=instant, name=name: killed_at(instant, name))  # type: ignore[misc]
        if _child(lambda name=name: classify(name)) or (outputs / name).read_bytes() != whole:  # type: ignore[misc]
            different.append(instant)
        if (outputs / f"{name}.parts").exists():
            different.append(instant)
    print(json.dumps({"instants": instant, "different": different, "status": status}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
