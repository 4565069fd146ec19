"""Run `sgn classify`: list the inputs, classify them chunk by chunk, and put the parts together."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from sgn_serve.classify.chunks import ChunkClassifier
from sgn_serve.classify.errors import ClassifyError, system_told
from sgn_serve.classify.formats import Format, format_of
from sgn_serve.classify.inputs import Found, identity_of, read_inputs, write_inputs
from sgn_serve.classify.items import Item, shown
from sgn_serve.classify.on_ray.cluster import Cluster
from sgn_serve.classify.on_ray.pool import Pool
from sgn_serve.classify.progress import Progress
from sgn_serve.classify.rows import COLUMNS, Row
from sgn_serve.classify.unfinished import Manifest, PartsFolder
from sgn_serve.common.ray_cluster import RayOptions, require_ray
from sgn_serve.common.termination import check_terminated
from sgn_serve.inference.classifier import ENGINE_NAMES
from sgn_serve.inference.engines import EngineError
from sgn_serve.process.version import package_version
from sgn_serve.records import ModelCard
from sgn_serve.serving.engine_choice import FLOAT32, EngineChoice
from sgn_serve.setting_types import AUTO_ENGINE, ONNX_RUNTIME
from sgn_serve.settings import PREFIX, Settings, check_threads

_NUMBERS = ("top_k", "max_batch", "max_bytes", "max_pixels", "decode_seconds", "threads")
"""Settings that rows depend on, as they are given."""


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        sources: See inputs.write_inputs.
        output: The file to write.
        column: The column of Parquet inputs, None for the usual one.
        chunk: Rows that a killed run loses at most, on Ray twice as many for each worker.
        resume: Whether to go on with an unfinished run.
        wants_block: Whether the block was asked for explicitly.
        ray: The cluster to run on, None for this process.
    """

    sources: list[str]
    output: Path
    column: str | None
    chunk: int
    resume: bool
    wants_block: bool
    ray: RayOptions | None = None

    @property
    def part(self) -> int:
        """Rows that are written at a time: half a chunk, for the next part has begun when one is written."""
        return max(1, self.chunk // ChunkClassifier.ahead)


class Result(Protocol):
    """Rows to come."""

    def result(self) -> list[Row]:
        """Wait for them, and return them."""


class Classifies(Protocol):
    """Classifies chunks: a ChunkClassifier in this process, or a Pool on a cluster.

    Attributes:
        choice: The engine that it runs on.
        answered: Number of inputs that have their row.
        ahead: Parts to submit before the oldest is written. A kill loses them.
    """

    choice: EngineChoice | None
    answered: int
    ahead: int

    @property
    def card(self) -> ModelCard:
        """The model's card, once it has started."""

    def start(self) -> None:
        """Start."""

    def submit(self, items: Sequence[Item]) -> Result:
        """Begin a chunk."""

    def close(self) -> None:
        """End it. Chunks that are not done are given up."""


@system_told()
def classify(options: Options, settings: Settings) -> str:
    """Classify pictures and write one row for each.

    Args:
        options: The options of the run.
        settings: The settings of the service.

    Returns:
        A line about the result.

    Raises:
        ServingError: See ClassifyError, and the errors of a model.
    """
    format = format_of(options.output)
    if options.ray is not None:
        require_ray()
    else:
        check_threads(settings)  # listing the inputs may take long
    if not options.output.parent.is_dir():
        raise ClassifyError(f"{options.output.parent}: there is no such folder; make it first")
    folder = PartsFolder(options.output, format)
    if folder.is_finished():
        if not options.resume:
            raise ClassifyError(f"{options.output}: it exists already; give another --out, or remove it")
        if folder.path.is_dir() and folder.stranger() is None:
            with folder:
                folder.clear()
        return f"{options.output} is finished already; to make it anew, remove it"
    if folder.exists() and not options.resume:
        with folder:  # a run that still works in it is told instead: its folder must not be removed
            folder.read_manifest()  # one of another version cannot go on
            raise ClassifyError(
                f"{folder.path}: it holds an unfinished run; go on with --resume, or remove the folder to start again"
            )
    with Progress() as bar, folder, nullcontext() if options.ray is None else Cluster(options.ray) as cluster:
        manifest = folder.read_manifest()
        found = Found()
        if manifest is None:
            bar.show("finding pictures", lambda: found.count)
            folder.list_inputs(lambda file: write_inputs(options.sources, options.column, file, found, folder.path))
            if str(found.skipped):
                bar.note(f"skipped {found.skipped}")
        else:
            found.identity = {source: digest for source in options.sources if (digest := identity_of(source))}
        bar.show("starting the network", lambda: 0)
        choice = None if manifest is None or manifest.engine is None else EngineChoice(**manifest.engine)
        classifier: Classifies = ChunkClassifier(settings, choice)
        if cluster is not None:
            classifier = Pool(settings, choice, cluster, bar.note)
        with closing(classifier) as chunks:
            _start(chunks, settings, folder)
            if options.chunk < ChunkClassifier.ahead:
                chunks.ahead //= ChunkClassifier.ahead  # a part is a whole chunk
            card = chunks.card
            for note in card.notes if manifest is None else ():
                bar.note(f"warning: {note}")
            if options.wants_block and not card.has_block:
                raise ClassifyError(
                    f"{settings.model_path}: the network has no self-gradient block; leave --self-gradient out"
                )
            identity = _identity(options, settings, card, found)
            if manifest is None:
                tables = [[table, column] for table, column in found.tables]
                engine = None if chunks.choice is None else asdict(chunks.choice)
                manifest = Manifest(identity, tables, found.count, options.part, engine)
                folder.begin(manifest)
            else:
                _check_same(folder, manifest, identity)
            logging.getLogger("bentoml.sgn_serve").addHandler(logging.NullHandler())  # each row tells its own error
            classify_chunks(chunks, folder, manifest, format, bar)
        bar.show("putting the parts together", lambda: 0)
        done = folder.done()
        folder.finish()
    errors = f", {done.refused:,} with an error: see the column error_code" if done.refused else ""
    rows = done.answered + done.refused
    return f"{options.output}: {rows:,} row{'' if rows == 1 else 's'}{errors}"


def _start(chunks: Classifies, settings: Settings, folder: PartsFolder) -> None:
    """Start the network on the engine of the unfinished run, if there is one."""
    choice = chunks.choice
    try:
        chunks.start()
    except EngineError:
        if choice is None or choice.engine == ONNX_RUNTIME or settings.engine != AUTO_ENGINE:
            raise
        reason = "which this machine cannot run; go on where it began"
        if settings.providers:
            reason = f"while SGN_PROVIDERS={','.join(settings.providers)} asks for ONNX Runtime; leave it out"
        raise ClassifyError(
            f"{folder.path}: the unfinished run there began on {ENGINE_NAMES[choice.engine]} in "
            f"{choice.precision or FLOAT32}, {reason}, or remove the folder to start again"
        ) from None


def classify_chunks(chunks: Classifies, folder: PartsFolder, manifest: Manifest, format: Format, bar: Progress) -> None:
    """Classify what is not done yet, and write it part by part.

    Args:
        chunks: Classifies the inputs of a part.
        folder: Has the list of inputs, and gets the parts.
        manifest: Describes the run.
        format: Format of the parts.
        bar: Shows the progress.
    """
    done = folder.resume()
    begin = done.parts * manifest.chunk
    bar.show("classifying", lambda: chunks.answered, manifest.count, min(begin, manifest.count))
    tables = [(table, column) for table, column in manifest.tables]
    inputs = read_inputs(folder.inputs, tables, begin)
    running: deque[Result] = deque()
    number = done.parts

    def write_next() -> None:
        rows = running.popleft().result()
        refused = sum(row.error_code is not None for row in rows)
        folder.write_part(number, format.encode(rows), len(rows) - refused, refused)

    for items in _chunked(inputs, manifest.chunk):
        running.append(chunks.submit(items))
        if len(running) == chunks.ahead:
            write_next()
            number += 1
        check_terminated()
    while running:
        write_next()
        number += 1


def _chunked(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _identity(options: Options, settings: Settings, card: ModelCard, found: Found) -> dict[str, Any]:
    """Return everything that the rows depend on, by a name for people."""
    assert card.engine is not None, "it was started"
    identity: dict[str, Any] = {
        "inputs": " ".join(shown(os.fsencode(source)) for source in options.sources),
        "working folder": shown(os.fsencode(Path.cwd())),
        "--column": options.column,
        "--chunk": options.chunk,
        "model": card.graph_sha256,
        "SGN_ENGINE": settings.engine,
        "engine": " ".join([card.engine.name, *card.engine.providers, card.engine.precision]),
        "--self-gradient": card.default_mode,
        "SGN_AUTO_MARGIN": None if card.auto is None or card.default_mode != "auto" else card.auto.margin,
        "SGN_BACKGROUND": card.preprocessing.background,
        "SGN_FORMATS": ",".join(card.preprocessing.formats),
        **{f"SGN_{name.upper()}": getattr(settings, name) for name in _NUMBERS},
        "columns": ",".join(COLUMNS),
        "version": package_version(),
    }
    identity |= {f"content of {shown(os.fsencode(source))}": digest for source, digest in found.identity.items()}
    return identity


def _check_same(folder: PartsFolder, manifest: Manifest, identity: dict[str, Any]) -> None:
    for name in {**manifest.identity, **identity}:
        then, now = manifest.identity.get(name), identity.get(name)
        if then != now:
            set_to = f"{name}=" if name.startswith(PREFIX) else f"{name} "  # with_flags finds the option by the "="
            raise ClassifyError(
                f"{folder.path}: the unfinished run there has {set_to}{then!r}, and this one {set_to}{now!r}; give the "
                "same, or remove the folder to start again"
            )


def interrupted(output: Path) -> str:
    """Return what to say after Ctrl-C or SIGTERM."""
    folder = PartsFolder(output, format_of(output))
    if folder.is_finished():
        return f"interrupted; {output} is finished"
    if not folder.exists():
        return "interrupted; nothing was classified yet"
    return f"interrupted; what is done is in {folder.path}: the same command with --resume goes on"
