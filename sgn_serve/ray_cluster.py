"""Connect to a Ray cluster. Ray is imported when this is asked for."""

import importlib.util
import os
import signal
import socket
import sys
import threading
from contextlib import AbstractContextManager, chdir, nullcontext
from typing import Self

from sgn_serve.refusals import ServingError, one_line

AUTO = "auto"
_ADDRESS = "RAY_ADDRESS"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without it Ray warns of its own next version
}
"""Variables that Ray reads when it is imported. Those that are set already are kept."""
_CONNECT_SECONDS = 5.0
_SHUTDOWN_SECONDS = 5.0


class RayError(ServingError):
    """There is no Ray, no such cluster, or none any more. The message, one line, names the fix."""


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
        return "its process has ended"
    return type(error).__name__
