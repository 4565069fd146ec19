"""Everything that touches undocumented parts of BentoML, and of circus, with which it supervises its workers.

BentoML has no setting to change how it supervises. pyproject.toml bounds its version, and missing_parts says which part
a newer one has lost. The rest of the service uses documented parts only: bentoml.service with its hooks,
add_asgi_middleware, and the method __is_ready__.
"""

import atexit
import importlib.util
import inspect
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bentoml._internal.utils.circus as bentoml_circus
from bentoml._internal.utils.circus import Arbiter
from circus.arbiter import Arbiter as CircusArbiter
from circus.process import Process
from circus.sockets import CircusSockets
from circus.watcher import Watcher

_STOPPING = "arbiter_stop"
PROGRAM = ("bentoml_cli.cli", "cli")
"""The module and the name of the program `bentoml`, which is called. It is looked for in the source, because its import
takes seconds."""


class Part(NamedTuple):
    """An undocumented part: its owner, its name, and why it is needed."""

    owner: type
    name: str
    why: str


PARTS = (
    Part(Arbiter, "start", "overridden: ends with a status of its own where nothing can be served"),
    Part(Arbiter, "stop", "overridden: closes the port first"),
    Part(Arbiter, "reload", "overridden: passes SIGHUP on instead of replacing the workers"),
    Part(Arbiter, "iter_watchers", "used: finds the workers"),
    Part(CircusSockets, "close_all", "used: closes the port"),
    Part(Process, "pid", "used: finds out whether a worker catches SIGHUP"),
    Part(Process, "send_signal", "used: passes SIGHUP on"),
)
ARBITER_ATTRIBUTES = {
    "_exclusive_running_command": "read: circus drops a command that comes while another one runs",
    "loop": "used: timers",
    "sockets": "used: the port",
    "exit_stack": "closed where nothing can be served",
}
"""Attributes that an arbiter makes when it is built, and why they are needed. They are looked for in its source."""
ENDPOINTS = {
    "endpoint": "where it takes commands",
    "pubsub_endpoint": "where it tells what happens",
}
"""Parameters of an arbiter that are replaced: neither is open to another process."""
WATCHER_ATTRIBUTES = {
    "respawn": "set: whether dead workers are replaced",
    "hooks": "added to: what is called when a worker has ended",
    "processes": "read: the workers",
    "env": "read: the workers' folder of metrics",
}
"""Attributes that a watcher makes when it is built, and why they are needed."""


def missing_parts() -> list[str]:
    """Return one sentence for every part that the installed BentoML or circus lacks, none where all are there."""
    missing = [
        f"{part.owner.__module__}.{part.owner.__qualname__} has no {part.name} any more, which is {part.why}"
        for part in PARTS
        if not hasattr(part.owner, part.name)
    ]
    if "Arbiter" not in inspect.getsource(bentoml_circus.create_standalone_arbiter):
        missing.append("bentoml's create_standalone_arbiter does not look up its Arbiter any more, which is replaced")
    parameters = inspect.signature(CircusArbiter.__init__).parameters
    missing += [
        f"circus's Arbiter has no parameter {name} any more, which says {what}"
        for name, what in {"check_delay": "how soon dead workers are seen", **ENDPOINTS}.items()
        if name not in parameters
    ]
    for attributes, owners in (
        (ARBITER_ATTRIBUTES, (Arbiter, *CircusArbiter.__mro__[:-1])),
        (WATCHER_ATTRIBUTES, (Watcher,)),
    ):
        source = "\n".join(inspect.getsource(owner) for owner in owners)
        missing += [
            f"{owners[0].__module__}.{owners[0].__qualname__} has no attribute {name} any more, which is {why}"
            for name, why in attributes.items()
            if not re.search(rf"\bself\.{name}\b", source)
        ]
    module, name = PROGRAM
    found = importlib.util.find_spec(module)
    source = Path(found.origin).read_text() if found is not None and found.origin is not None else ""
    if not re.search(rf"^{name} = ", source, re.MULTILINE):
        missing.append(f"{module} has no {name} any more, which is called: the program bentoml")
    return missing


def run_bentoml(arguments: Sequence[str]) -> None:
    """Run the program `bentoml` with these arguments, as a command line would."""
    module, name = PROGRAM
    getattr(importlib.import_module(module), name)(arguments, prog_name="bentoml")


def use_arbiter(arbiter: type[Arbiter]) -> None:
    """Make BentoML supervise its workers with this class, from now on, in this process."""
    bentoml_circus.Arbiter = arbiter  # type: ignore[misc]


class BentomlArbiter(Arbiter):
    """BentoML's supervisor, with names for the undocumented parts that are used of it.

    It takes commands from nobody else. BentoML gives it two TCP ports of this machine for that, without any password:
    whoever has an account there could start programs as the server's user. And a port that is chosen so may be the
    server's own. Plugins, such as that of `bentoml serve --reload`, are processes of their own. They get sockets in a
    folder that this user alone may enter.

    Args:
        watchers: Circus's watchers, each of which keeps a number of workers running.
        check_seconds: Time between two looks for dead workers.
        after_exit: Called when a worker has ended, with its watcher, its process id and its exit status.
        arguments: Further arguments of circus's Arbiter.
        options: Further arguments of circus's Arbiter.
    """

    def __init__(
        self,
        watchers: list[Any],
        check_seconds: float,
        after_exit: Callable[[Any, int, int], None],
        *arguments: Any,
        **options: Any,
    ) -> None:
        folder = tempfile.mkdtemp(prefix="sgn-") if options.get("plugins") else ""
        where = f"ipc://{folder}/" if folder else "inproc://"
        endpoints = {name: f"{where}{name}-{id(self)}" for name in ENDPOINTS}
        super().__init__(watchers, *arguments, **{**options, **endpoints, "check_delay": check_seconds})
        if folder:
            atexit.register(shutil.rmtree, folder, ignore_errors=True)

        def after_reap(watcher: Any, process_pid: int, exit_code: int, **_: Any) -> None:
            after_exit(watcher, process_pid, exit_code)

        for watcher in watchers:
            watcher.respawn = True
            watcher.hooks["after_reap"] = after_reap

    @property
    def busy(self) -> bool:
        """Return whether another command than stop is being carried out. Circus drops a command that comes then."""
        return self._exclusive_running_command not in (None, _STOPPING)

    def call_later(self, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the arbiter's event loop."""
        self.loop.call_later(seconds, function, *arguments)

    def close_port(self) -> None:
        """Stop listening. The workers have sockets of their own for connections that they have taken."""
        self.sockets.close_all()

    def addresses(self) -> str:
        """Return the addresses to listen on, as host:port, separated by commas."""
        return ", ".join(f"{listener.host}:{listener.port}" for listener in self.sockets.values())

    def has_port(self, port: int) -> bool:
        """Return whether a port is one of those to listen on."""
        return any(listener.port == port for listener in self.sockets.values())

    def page_address(self, path: str) -> str:
        """Return the URL of a path of the first address that is listened on, as a browser on this machine takes it."""
        listener = next(iter(self.sockets.values()))
        host = "127.0.0.1" if listener.host in ("0.0.0.0", "") else listener.host
        return f"http://{f'[{host}]' if ':' in host else host}:{listener.port}{path}"

    def leave(self) -> None:
        """Close what BentoML keeps open while the arbiter runs."""
        self.exit_stack.close()

    def workers(self) -> Iterator[Any]:
        """Yield the processes of all workers, each with pid and send_signal."""
        for watcher in self.iter_watchers():
            yield from watcher.processes.values()
