"""Connect to a Ray cluster, and count the workers that it has room for. Ray is imported when this is asked for."""

import importlib.util
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, chdir, nullcontext
from dataclasses import dataclass
from typing import Any, Self

from sgn_serve.classify.errors import ClassifyError
from sgn_serve.refusals import one_line

AUTO = "auto"
GO_ON = "the same command with --resume goes on"
_ADDRESS = "RAY_ADDRESS"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keeps Ray from warning of its own next version
}
"""Variables that Ray reads when it is imported. Those that are set already are kept."""
_CONNECT_SECONDS = 5.0
_SHUTDOWN_SECONDS = 5.0


@dataclass(frozen=True)
class RayOptions:
    """Say where and how to run on Ray.

    Attributes:
        address: HOST:PORT of the cluster's head, or AUTO for the cluster that this machine belongs to.
        workers: Number of workers, None for as many as the cluster has room for.
        cores: Cores of each worker, None for all cores of a machine: of the one with the fewest.
    """

    address: str
    workers: int | None = None
    cores: int | None = None


@dataclass(frozen=True)
class Size:
    """Size of a pool.

    Attributes:
        workers: Number of workers.
        cores: Cores of each.
        gpus: GPUs of each.
    """

    workers: int
    cores: int
    gpus: int


def require_ray() -> None:
    """Check that Ray is there.

    Raises:
        ClassifyError: It is not.
    """
    try:
        found = importlib.util.find_spec("ray") is not None
    except ValueError:  # a module without a spec, such as one that is None
        found = False
    if not found:
        raise ClassifyError(
            '--ray needs Ray, which is not installed; install it with pip install "self-gradient-networks[ray]", '
            "or leave --ray out"
        )


class Cluster:
    """A connection to a Ray cluster, as a context manager. It starts no cluster.

    Args:
        options: Where it is.
    """

    def __init__(self, options: RayOptions):
        self.options = options
        self.lost = False
        self._head = ("", 0)

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ClassifyError: There is no such cluster, or this machine does not belong to it.
        """
        require_ray()
        address = self.options.address
        if address == AUTO:
            address = os.environ.get(_ADDRESS) or AUTO
        if "://" in address:
            raise ClassifyError(
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
        # It would wait for a minute and then end this process, if there is no head.
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

    def size(self, wants_gpu: bool) -> Size:
        """Return the size of the pool: what the options say, and else what the cluster has room for.

        Args:
            wants_gpu: Whether each worker needs a GPU.

        Raises:
            ClassifyError: It has room for none.
        """
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return fitting_size(machines, self.options, wants_gpu)

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
        except Exception as error:  # Ray's, the system's, and RuntimeError for another version of Ray or Python
            if address == AUTO and isinstance(error, ConnectionError):
                raise ClassifyError(
                    "--ray auto: this machine belongs to no running Ray cluster; start one with ray start --head, or "
                    f"give the address of its head ({one_line(error)})"
                ) from None
            raise ClassifyError(
                f"--ray {address}: no connection ({one_line(error)}); run the command on a machine of the cluster, "
                "with its versions of Ray and Python"
            ) from None
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)  # Ray's own would raise SystemExit in the middle of anything
        # Ray prints what it knows of a lost worker on standard output, in a paragraph. The pool tells it in one line.
        vars(ray._private.worker)["_worker_logs_enabled"] = False
        self._head = _split(ray.get_runtime_context().gcs_address)


def fitting_size(machines: Sequence[Mapping[str, Any]], options: RayOptions, wants_gpu: bool) -> Size:
    """Return the size of a pool.

    Args:
        machines: The resources of each machine, as Ray names them.
        options: The size that was asked for.
        wants_gpu: Whether each worker needs a GPU.

    Raises:
        ClassifyError: There is room for no worker, and their number was not asked for.
    """
    room = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]
    room = [(cores, gpus) for cores, gpus in room if cores and (gpus or not wants_gpu)]
    each = options.cores or min((cores // (gpus if wants_gpu else 1) or 1 for cores, gpus in room), default=1)
    fitting = sum(min(cores // each, gpus) if wants_gpu else cores // each for cores, gpus in room)
    workers = options.workers or fitting
    if not workers:
        wanted = f"{each} core{'' if each == 1 else 's'}{' and a GPU' if wants_gpu else ''}"
        raise ClassifyError(
            f"--ray {options.address}: no machine of the cluster has {wanted} for Ray; give a smaller --ray-cores, or "
            "--ray-workers where the cluster grows when it is asked to"
        )
    return Size(workers, each, int(wants_gpu))


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
        raise ClassifyError(
            f"--ray {address}: this is no address; give HOST:PORT, such as head.example:6379, or auto"
        ) from None
    except OSError as error:
        raise ClassifyError(
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
