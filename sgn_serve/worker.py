"""Start and stop what one process of the service serves."""

import asyncio
import errno
import logging
import os
import signal

from sgn_serve.app import State
from sgn_serve.http.connections import ConnectionLimits, allowed_connections
from sgn_serve.process.freed_memory import FreedMemory
from sgn_serve.process.garbage import freeze_long_lived_objects
from sgn_serve.process.signal_thread import take_signals
from sgn_serve.process.worker_start import CANNOT_SERVE, Start, no_other_try
from sgn_serve.serving.predictor import Predictor
from sgn_serve.serving.reloading import fingerprint
from sgn_serve.serving.trial import Tried, read_tried_graph
from sgn_serve.settings import current_settings
from sgn_serve.telemetry import metrics
from sgn_serve.telemetry.logs import log_json_lines

logger = logging.getLogger("bentoml.sgn_serve")


class Worker:
    """Read the model, start the predictor, and take over how the process is reloaded and ended.

    The process ends where there is nothing to serve.

    Args:
        state: What the application shares. It gets the predictor.
    """

    def __init__(self, state: State) -> None:
        take_signals()
        self._begun = Start()
        self._state = state
        log_json_lines()
        with no_other_try():
            settings = current_settings()
            self._served_files = fingerprint(settings.model_path)
            graph, tried = read_tried_graph(settings, Tried.by_supervisor())
            self._predictor = Predictor(graph, settings, tried)

    async def start(self) -> None:
        """Warm the network up, and answer from now on."""
        predictor = self._predictor
        del self._predictor  # it would be kept beside the one that replaces it
        settings, state = predictor.settings, self._state
        connections = allowed_connections(settings.max_connections)
        limits = ConnectionLimits(settings.receive_seconds, connections, settings.access_log)
        state.shutdown.attach(limits, settings.drain_seconds)
        self._begun.finish()
        with no_other_try():
            try:
                await predictor.start()
            except OSError as error:
                logger.error("this worker cannot start: %s", error)
                # The machine may have room later, so another try is made. More files may not be open later, either.
                os._exit(CANNOT_SERVE if error.errno == errno.EMFILE else 1)
        state.slot.put(predictor)
        state.reloader.remember(self._served_files)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, state.reloader.reload_soon)
        await state.reloader.catch_up()
        freeze_long_lived_objects()
        FreedMemory().keep_giving_back()
        metrics.WORKER_STARTS.inc()

    async def stop(self) -> None:
        """Stop the predictor and its threads."""
        await self._state.slot.predictor.stop()
