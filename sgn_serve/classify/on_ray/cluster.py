"""Say how many workers classify on a Ray cluster, and count those that it has room for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgn_serve import ray_cluster
from sgn_serve.classify.errors import ClassifyError

GO_ON = "the same command with --resume goes on"


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


class Cluster(ray_cluster.Cluster):
    """A connection to a Ray cluster, as a context manager.

    Args:
        options: Where it is, and how many workers are asked for.
    """

    def __init__(self, options: RayOptions):
        super().__init__(options.address)
        self.options = options

    def size(self, wants_gpu: bool) -> Size:
        """Return the size of the pool: what the options say, and else what the cluster has room for.

        Args:
            wants_gpu: Whether each worker needs a GPU.

        Raises:
            ClassifyError: It has room for none.
        """
        return fitting_size(self.machines(), self.options, wants_gpu)


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
