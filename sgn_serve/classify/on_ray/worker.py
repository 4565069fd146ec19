"""The actor that classifies chunks on a machine of the cluster. It holds an engine and decoders of its own."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from sgn_serve.classify.chunks import ChunkClassifier
from sgn_serve.classify.items import Item
from sgn_serve.classify.rows import Row
from sgn_serve.process.cores import usable_cores
from sgn_serve.process.version import package_version
from sgn_serve.records import ModelCard
from sgn_serve.serving.engine_choice import EngineChoice
from sgn_serve.settings import Settings


@dataclass(frozen=True)
class Started:
    """Tell what a worker has started: what must be the same for all workers of a run.

    Attributes:
        card: The model's card.
        choice: The engine that it runs on.
        version: The version of this package there.
    """

    card: ModelCard
    choice: EngineChoice
    version: str

    @property
    def decisive(self) -> dict[str, str]:
        """Facts that the rows depend on, by a name for people."""
        engine = self.card.engine
        assert engine is not None, "it was started"
        return {
            "version": self.version,
            "model": self.card.graph_sha256,
            "engine": " ".join([engine.name, *engine.providers, engine.precision]),
        }


class Worker:
    """Classifies chunks, two at a time.

    Args:
        settings: The settings of the run. The model's path must be absolute.
        cores: Cores that Ray has reserved for it: as many threads and decoders, where the settings name no number.
    """

    def __init__(self, settings: Settings, cores: int):
        cores = min(cores, usable_cores())
        given = {} if "decoders" in settings.model_fields_set else {"decoders": cores}
        self._settings = settings.model_copy(update={"threads": settings.threads or cores, **given})
        self._chunks: ChunkClassifier | None = None

    def place(self) -> tuple[str, int]:
        """Return the name of its machine and the number of its process. The answer tells that the process is up."""
        return socket.gethostname(), os.getpid()

    def start(self, choice: EngineChoice | None) -> Started:
        """Start the engine and the decoders.

        Args:
            choice: The engine of the run. None chooses it.

        Raises:
            ServingError: The model cannot be used here.
            OSError: The decoders do not start.
        """
        self._chunks = ChunkClassifier(self._settings, choice)
        self._chunks.start()
        assert self._chunks.choice is not None, "it was started"
        return Started(self._chunks.card, self._chunks.choice, package_version())

    def classify(self, items: Sequence[Item]) -> list[Row]:
        """Return a row for each item, in their order.

        Raises:
            ServingError: The model cannot answer so large a batch.
        """
        assert self._chunks is not None, "it is started first"
        return self._chunks(items)
