"""Connect to a Ray cluster. Ray is imported when this is asked for."""

import argparse
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, chdir, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sgn_serve.common.command_parser import positive_number
from sgn_serve.common.error_text import one_line
from sgn_serve.common.refusals import ServingError
from sgn_serve.common.termination import Terminated, check_terminated

AUTO = "auto"
_ADDRESS = "RAY_ADDRESS"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without it Ray warns of its own next version
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # it would print errors of answers that nobody reads; ours are told in a line
}
"""Variables that Ray reads when it is imported. Those that are set already are kept."""
_CONNECT_SECONDS = 5.0
_SHUTDOWN_SECONDS = 5.0
LOOK_SECONDS = 1.0
"""Time between two looks at the head, while nothing is answered."""
HEAD_SECONDS = 15.0
"""Time without a head after which a command ends. Ray itself would end it after 60 s, with no word of ours."""
TRIES = 3
"""Workers that one piece of work may end. After that the work itself is to blame, and not a machine."""
PROCESS_ENDED = "its process has ended"
"""Reason of a loss that the work may be to blame for: no machine, memory or store that is known to have failed."""
_MACHINE_SECONDS = 120.0


class RayError(ServingError):
    """Ray is not installed, or its cluster cannot be reached or was lost. The message, one line, names the fix."""

    exit_status: ClassVar[int] = 2
    """Exit status of training and judging too, so that every command ends alike when the head is lost."""


def require_ray() -> None:
    """Check that Ray is there.

    Raises:
        RayError: It is not.
    """
    try:
        found = importlib.util.find_spec("ray") is not None
    except ValueError:  # a module without a spec, such as one that is None
        found = False
    if not found:
        raise RayError(
            '--ray needs Ray, which is not installed; install it with pip install "self-gradient-networks[ray]", '
            "or leave --ray out"
        )


@dataclass(frozen=True)
class RayOptions:
    """Say where and how to run on Ray.

    Attributes:
        address: HOST:PORT of the cluster's head, or AUTO for the cluster that this machine belongs to.
        workers: Number of workers, None for as many as the cluster has room for.
        cores: Cores of each worker, None for as many as the smallest machine has.
    """

    address: str
    workers: int | None = None
    cores: int | None = None


def add_ray_options(parser: argparse.ArgumentParser, does: str) -> None:
    """Add the options that say where and how to run on Ray.

    Args:
        parser: The parser of a command.
        does: A verb: what the command does there.
    """
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help=f"{does} on the machines of a Ray cluster: HOST:PORT of its head, or auto for the one that this machine "
        "belongs to",
    )
    parser.add_argument(
        "--ray-workers",
        type=positive_number,
        metavar="N",
        help="workers on Ray (default: as many as the cluster has cores for)",
    )
    parser.add_argument(
        "--ray-cores",
        type=positive_number,
        metavar="N",
        help="cores of each worker on Ray (default: as many as the smallest machine has)",
    )


def ray_options(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> RayOptions | None:
    """Return where and how to run on Ray, None for one machine. A size without --ray is an error of the parser.

    Args:
        parser: The parser of the command.
        parsed: What it has parsed.
    """
    if parsed.ray is not None:
        return RayOptions(parsed.ray, parsed.ray_workers, parsed.ray_cores)
    if parsed.ray_workers or parsed.ray_cores:
        parser.error("--ray-workers and --ray-cores are for --ray; give it too, or leave them out")
    return None


@dataclass(frozen=True)
class Size:
    """Size of the workers together.

    Attributes:
        workers: Number of workers.
        cores: Cores of each.
        gpus: GPUs of each.
    """

    workers: int
    cores: int
    gpus: int


def fitting_size(machines: Sequence[Mapping[str, Any]], options: RayOptions, wants_gpu: bool) -> Size:
    """Return how many workers there are, and how large: what the options say, and else what the cluster has room for.

    Args:
        machines: The resources of each machine, as Ray names them.
        options: The size that was asked for.
        wants_gpu: Whether each worker needs a GPU.

    Raises:
        RayError: There is room for no worker, and their number was not asked for.
    """
    room = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]
    room = [(cores, gpus) for cores, gpus in room if cores and (gpus or not wants_gpu)]
    each = options.cores or min((cores // (gpus if wants_gpu else 1) or 1 for cores, gpus in room), default=1)
    fitting = sum(min(cores // each, gpus) if wants_gpu else cores // each for cores, gpus in room)
    workers = options.workers or fitting
    if not workers:
        wanted = f"{each} core{'' if each == 1 else 's'}{' and a GPU' if wants_gpu else ''}"
        raise RayError(
            f"--ray {options.address}: no machine of the cluster has {wanted} for Ray; give a smaller --ray-cores, or "
            "--ray-workers where the cluster grows when it is asked to"
        )
    return Size(workers, each, int(wants_gpu))


class Cluster:
    """A connection to a Ray cluster, as a context manager. It starts no cluster.

    Args:
        address: HOST:PORT of the cluster's head, or AUTO for the cluster that this machine belongs to.

    Attributes:
        lost: Whether its head has been given up.
    """

    def __init__(self, address: str):
        self.address = address
        self.lost = False
        self._head = ("", 0)

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            RayError: There is no such cluster, or this machine does not belong to it.
        """
        require_ray()
        address = self.address
        if address == AUTO:
            address = os.environ.get(_ADDRESS) or AUTO
        if "://" in address:
            raise RayError(
                f"--ray {address}: Ray's client is not supported; run the command on a machine of the cluster, such as "
                "with ray job submit, and give --ray auto"
            )
        if address != AUTO:
            _check_reachable(address)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._connect(address)
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect. Ray then ends what this process has started."""
        import ray

        if not self.lost and self.head_answers():
            ray.shutdown()
            return
        # Without a head, it would wait for a minute and then end this process.
        thread = threading.Thread(target=ray.shutdown, daemon=True)
        thread.start()
        thread.join(_SHUTDOWN_SECONDS)

    def head_answers(self) -> bool:
        """Return whether the head takes connections."""
        try:
            socket.create_connection(self._head, _CONNECT_SECONDS).close()
        except OSError:
            return False
        return True

    def machines(self) -> list[dict[str, float]]:
        """Return the resources of each machine that is up, as Ray names them: CPU, GPU and others."""
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def on_each_machine(
        self, function: Callable[..., Any], *given: Any, go_on: str, note: Callable[[str], None]
    ) -> list[Any]:
        """Call a function on each machine that is up, and return the answers. One that gives none is left out.

        Args:
            function: Found by its name on every machine.
            given: Its arguments.
            go_on: How to go on where the head goes, for the message.
            note: Prints a line: which machines gave no answer.

        Raises:
            RayError: A machine does not find it, or no head is left.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = ray.remote(max_calls=0)(function)
        asked: dict[Any, str] = {}
        for node in ray.nodes():
            if node["Alive"]:
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                answer = task.options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(*given)
                asked[answer] = node["NodeManagerHostname"]
        head, ends = Head(self, go_on), time.monotonic() + _MACHINE_SECONDS
        waiting, answers, silent = list(asked), [], []
        while waiting and time.monotonic() < ends:
            done, waiting = wait_for(waiting, len(waiting))
            for answer in done:
                try:
                    answers.append(ray.get(answer))
                except ray.exceptions.RayTaskError as error:
                    check_found(error, self.address)
                    raise
                except ray.exceptions.RayError:  # it has gone meanwhile
                    silent.append(asked[answer])
            if waiting:
                head.answers()
        for answer in waiting:
            silent.append(asked[answer])
            ray.cancel(answer, force=True)
        if silent:
            machines = "1 machine" if len(silent) == 1 else f"{len(silent)} machines"
            note(f"note: {machines} did not answer the check: {', '.join(sorted(silent))}")
        return answers

    def _connect(self, address: str) -> None:
        import ray

        if address == AUTO:
            address = _last_head()
            if address != AUTO:
                _check_reachable(address)
        on_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM) if on_main_thread else None
        try:
            with _working_folder_hidden():
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except SystemExit:  # Ray's own handler of SIGTERM, which stands while it connects
            raise Terminated from None
        except Exception as error:  # Ray's, the system's, and RuntimeError for another version of Ray or Python
            if address == AUTO and isinstance(error, ConnectionError):
                raise RayError(
                    "--ray auto: this machine belongs to no running Ray cluster; start one with ray start --head, or "
                    f"give the address of its head ({one_line(error)})"
                ) from None
            raise RayError(
                f"--ray {address}: no connection ({one_line(error)}); run the command on a machine of the cluster, "
                "with its versions of Ray and Python"
            ) from None
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)  # Ray's own would raise SystemExit in the middle of anything
        # Ray prints what it knows of a lost worker on standard output, in a paragraph. The pool tells it in one line.
        vars(ray._private.worker)["_worker_logs_enabled"] = False
        self._head = _split(ray.get_runtime_context().gcs_address)


def wait_for(references: Sequence[Any], count: int = 1) -> tuple[list[Any], list[Any]]:
    """Return which of Ray's references are there, and which are not, after LOOK_SECONDS at most.

    Ray runs the handlers of signals inside its C++, where an exception becomes SystemError, or is lost.

    Args:
        references: References of Ray.
        count: How many are waited for.

    Raises:
        Terminated: SIGTERM has arrived.
    """
    import ray

    try:
        found: tuple[list[Any], list[Any]] = ray.wait(list(references), num_returns=count, timeout=LOOK_SECONDS)
    except SystemError:
        check_terminated()
        raise
    check_terminated()
    return found


class Head:
    """Notices that the head of a cluster has gone for good.

    Args:
        cluster: The connection, which is told that the head is given up.
        go_on: How to go on once it is up again, for the message.
    """

    def __init__(self, cluster: Cluster, go_on: str):
        self._cluster = cluster
        self._go_on = go_on
        self._silent_since: float | None = None

    def answers(self) -> bool:
        """Return whether it answers.

        Raises:
            RayError: It has not for some time.
        """
        if self._cluster.head_answers():
            self._silent_since = None
            return True
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since >= HEAD_SECONDS:
            self._cluster.lost = True
            raise RayError(f"the head of the Ray cluster does not answer any more; once it is up again, {self._go_on}")
        return False

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RayError: It has not for some time.
        """
        while not self.answers():
            time.sleep(LOOK_SECONDS)


def _working_folder_hidden() -> AbstractContextManager[None]:
    """Work in another folder for a while, unless Python looks for modules in this one.

    Ray has its workers look there first. A folder of pictures may hold somebody's numpy.py.
    """
    folders = {os.path.abspath(folder) for folder in sys.path}
    return nullcontext() if os.getcwd() in folders else chdir("/")


def _last_head() -> str:
    """Return the address of the head that `ray start` wrote down on this machine, AUTO where there is none.

    Ray itself would try for two minutes to reach one that has gone.
    """
    from ray._private import utils

    read = getattr(utils, "read_ray_address", None)  # it is not documented
    return (read and read()) or AUTO


def _check_reachable(address: str) -> None:
    try:
        socket.create_connection(_split(address), _CONNECT_SECONDS).close()
    except ValueError:
        raise RayError(
            f"--ray {address}: this is no address; give HOST:PORT, such as head.example:6379, or auto"
        ) from None
    except OSError as error:
        raise RayError(
            f"--ray {address}: the head of the cluster cannot be reached ({error.strerror or one_line(error)}); start "
            "it with ray start --head, or correct the address"
        ) from None


def _split(address: str) -> tuple[str, int]:
    """Return the host and the port.

    Raises:
        ValueError: It has none.
    """
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(address)
    return host.strip("[]"), int(port)


def check_found(error: Exception, address: str) -> None:
    """Check that a task failed for another reason than that its machine does not find its code.

    Args:
        error: What Ray raises for the task.
        address: The cluster's address, as it was given.

    Raises:
        RayError: The machine does not find it.
    """
    text = str(error)
    if "failed to import on the worker" in text:
        missing = one_line(Exception(text.strip().splitlines()[-1]))
        raise RayError(
            f"--ray {address}: a machine of the cluster lacks this package, or has another version of it ({missing}); "
            "install the same one on every machine"
        ) from None


def reason_of_loss(error: Exception) -> str:
    """Return why Ray lost a worker, in short. Its own message is a page."""
    import ray

    text = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in text:
        return "its machine ran out of memory"
    if isinstance(error, ray.exceptions.ActorUnavailableError) or "its node has died" in text:
        return "its machine does not answer"
    if isinstance(error, ray.exceptions.ActorDiedError) and "creation task" in text:
        return one_line(Exception(text.strip().splitlines()[-1]))
    if isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.WorkerCrashedError):
        return PROCESS_ENDED
    return type(error).__name__
