"""Each command is given its GPUs on Ray, which is told that there is one. Nothing is computed there."""

import importlib.util
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from benchmarks.local_ray import local_cluster
from sgn_serve.classify.items import Item
from sgn_serve.classify.on_ray import pool as pool_module
from sgn_serve.classify.on_ray.cluster import Cluster
from sgn_serve.classify.on_ray.pool import Pool
from sgn_serve.common import ray_cluster
from sgn_serve.common.ray_cluster import RayOptions, Size
from sgn_serve.settings import Settings
from tests.gpu_tasks import GpuWorker, gpu_experiment, gpu_task
from training.common.ray_tasks import connected
from training.evaluate.on_ray import runner as judging
from training.evaluate.on_ray.runner import RayRunner, task_size
from training.reproduce.experiment import DataSource, Experiment
from training.reproduce.on_ray import runner as reproducing
from training.reproduce.on_ray.runner import make_on_ray
from training.reproduce.systems import BUDGETS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

THE_GPU = ([0], "0")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of the head of a cluster with two cores and a GPU, as Ray is told."""
    with local_cluster({}, gpus=1) as address:
        yield address


@pytest.mark.thorough
def test_a_task_is_given_its_share_of_a_gpu(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "run_task", gpu_task)
    with connected(cluster) as there:
        # With halves first, two workers have started when a whole one is asked for.
        for gpus, together in ((0.5, True), (None, False)):
            folder = tmp_path / str(gpus)
            folder.mkdir()
            size = task_size(there, None, gpus, on_cpu=False)
            subject: Any = None
            with closing(RayRunner(there, subject, [], size, pytest.fail)) as runner:
                for number in range(2):
                    work: Any = (str(folder), number, together)
                    assert runner.has_room()
                    runner.submit(work)
                assert runner.has_room() == together
                told = [runner._tasks.next()[1] for _ in range(2)]
            assert told == [(*THE_GPU, together)] * 2


def test_a_worker_of_classify_is_given_a_gpu_where_cuda_is_asked_for(cluster, monkeypatch):
    monkeypatch.setattr(pool_module, "Worker", GpuWorker)
    with (
        Cluster(RayOptions(cluster, cores=1)) as there,
        closing(Pool(Settings(providers=("cuda",)), None, there, pytest.fail)) as pool,
    ):
        pool.start()
        assert pool._size == Size(1, 1, 1), "there are two cores and one GPU"
        told: list[Any] = pool.submit([Item("a.png")]).result()
    assert told == [THE_GPU]


@pytest.mark.thorough
def test_a_system_of_a_table_is_given_a_gpu(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproducing, "run_experiment", gpu_experiment)
    # Each process that answers this check would import PyTorch, which takes seconds.
    monkeypatch.setattr(ray_cluster.Cluster, "on_each_machine", lambda *_, **__: [])
    source = DataSource("cifar10", "cifar10", tmp_path, "")
    systems = [Experiment(name, source, "smoke", BUDGETS["smoke"], 1) for name in ("standard", "pgd")]
    make_on_ray(systems, RayOptions(cluster, cores=1), judged=True)
    assert capsys.readouterr().err == (
        f"cifar10/standard: done on {THE_GPU} (1 of 2)\ncifar10/pgd: done on {THE_GPU} (2 of 2)\n"
    )
