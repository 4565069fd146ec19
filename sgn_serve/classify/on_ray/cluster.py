"""Connect to the Ray cluster that classifies, and count the workers that it has room for."""

from sgn_serve.common import ray_cluster
from sgn_serve.common.ray_cluster import RayOptions, Size, fitting_size

GO_ON = "the same command with --resume goes on"


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
            RayError: It has room for none.
        """
        return fitting_size(self.machines(), self.options, wants_gpu)
