"""A run on a Ray cluster gives the rows of one process, whatever happens to its workers."""

import importlib.util
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from benchmarks.local_ray import START_SECONDS, joined_node, local_cluster
from release.kill_classify import make_inputs
from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.items import Item
from sgn_serve.classify.on_ray import pool as pool_module
from sgn_serve.classify.on_ray.cluster import Cluster
from sgn_serve.classify.on_ray.pool import Chunk, Pool
from sgn_serve.classify.reading import DAMAGED_TABLE, UNREADABLE
from sgn_serve.classify.rows import error_row
from sgn_serve.classify.unfinished import PartsFolder
from sgn_serve.common import ray_cluster
from sgn_serve.common.ray_cluster import PROCESS_ENDED, RayError, RayOptions, Size, fitting_size
from sgn_serve.process.version import package_version
from sgn_serve.serving.engine_choice import EngineChoice
from sgn_serve.settings import Settings
from tests.local_ray import kill_head, wait_until, workers
from tests.sgn_serve.classify.conftest import read_rows
from tests.sgn_serve.classify.fragile_worker import MEETING, POISON, FaultyWorker, FragileWorker
from tests.sgn_serve.classify.object_server import BUCKET, object_server
from tests.sgn_serve.sample_pictures import noise

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A bucket with pictures under q. Its value is the environment that leads programs to it."""
    folder = tmp_path_factory.mktemp("objects")
    pictures(folder / "q", 7)
    with object_server(folder) as environment:
        yield environment


@pytest.fixture(scope="module")
def cluster(bucket: dict[str, str]) -> Iterator[str]:
    """The address of the head of a cluster on this machine."""
    with local_cluster(bucket) as address:
        yield address


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(noise(8, 8, number)).save(folder / f"{number:02d}.png")
    return folder


@with_ray
def test_a_worker_that_is_killed_under_way_costs_no_rows(classify, cluster, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = [os.path.relpath(source) for source in make_inputs(tmp_path, 24)]
    (tmp_path / "numpy.py").write_text("raise ImportError('workers import what lies beside the pictures')")
    assert classify(*sources, "--out", "one.parquet") == 0
    pools: list[Pool] = []
    start, write_part = Pool.start, PartsFolder.write_part

    def started(self):
        pools.append(self)
        start(self)

    def killing(self, number, *rest):
        if number == 1:
            (pool,) = pools
            while len([member for member in pool._members if member.started]) < 2:
                pool.advance()
            os.kill(pool._members[1].process, signal.SIGKILL)
        write_part(self, number, *rest)

    monkeypatch.setattr(Pool, "start", started)
    monkeypatch.setattr(PartsFolder, "write_part", killing)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    capsys.readouterr()
    assert classify(*sources, "--out", "many.parquet", "--ray", "auto", "--ray-cores", "1") == 0
    told = capsys.readouterr()
    assert Path("many.parquet").read_bytes() == Path("one.parquet").read_bytes()
    skipped, *rest = told.err.splitlines()
    assert skipped.startswith("skipped 1 file")
    lost = [line for line in rest if not line.startswith("starting the network [")]  # said after 30 s of it
    assert lost
    for line in lost:  # on a busy machine, its successor may be lost too
        assert line.startswith("the worker on "), told.err
        assert line.endswith("; what it had is done again"), told.err
    assert told.out.startswith("many.parquet: 41 rows, ")
    assert len(told.out.splitlines()) == 1
    assert not list(tmp_path.glob("*.parts"))


@with_ray
def test_a_picture_that_ends_its_decoder_is_an_error_of_its_row(classify, cluster, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "p"
    folder.mkdir()
    for number, fault in enumerate(("well", "segfault", "well", "exit", "well")):
        (folder / f"{number}.png").write_text(fault)
    monkeypatch.setattr(pool_module, "Worker", FaultyWorker)
    output = tmp_path / "a.jsonl"
    assert classify(folder, "--out", output, "--ray", cluster, "--ray-workers", "1", "--ray-cores", "1") == 0
    crashed = "decoder_crashed"
    assert [row["error_code"] for row in read_rows(output)] == [None, crashed, None, crashed, None]
    assert "is lost" not in capsys.readouterr().err


AUTO_CLIENT = """
import sys
from sgn_serve.classify.command import main
from sgn_serve.classify.on_ray import pool
from tests.sgn_serve.classify.fragile_worker import MeetingWorker
pool.Worker = MeetingWorker
sys.exit(main())
"""


@pytest.mark.thorough
@with_ray
def test_auto_without_an_address_is_the_cluster_of_this_machine_with_all_its_nodes(classify, tiny, tmp_path):
    """Its files are in a folder of its own, as they are in /tmp for users, and no other cluster is found there."""
    folder, marks = pictures(tmp_path / "p", 8), tmp_path / "marks"
    marks.mkdir()
    assert classify(folder, "--out", tmp_path / "one.csv") == 0
    arguments = [str(folder), "--out", str(tmp_path / "many.csv"), "--model", str(tiny), "--chunk", "1"]
    arguments += ["--threads", "1", "--decoders", "1", "--ray", "auto"]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as files:
        machine = {"RAY_TMPDIR": files, MEETING: str(marks)}
        environment = {**os.environ, **machine, "PYTHONPATH": str(Path(__file__).parents[3])}
        environment.pop("RAY_ADDRESS", None)
        with local_cluster(machine, cores=1) as address, joined_node(address, machine):
            done = subprocess.run(
                [sys.executable, "-c", AUTO_CLIENT, *arguments], env=environment, capture_output=True, text=True
            )
    assert done.returncode == 0, done.stderr
    assert len(list(marks.iterdir())) == 2, "a worker on each node has classified"
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


CLIENT = """
import sys
from sgn_serve.common import ray_cluster
ray_cluster.HEAD_SECONDS = 1.0
from sgn_serve.classify.command import main
sys.exit(main())
"""


@contextmanager
def client(folder: Path, output: Path, model: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `sgn classify` on a cluster, with a chunk for each picture, and wait until some of them are written."""
    arguments = [str(folder), "--out", str(output), "--model", str(model), "--chunk", "1"]
    arguments += ["--threads", "1", "--decoders", "1", "--ray", address, "--ray-cores", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:

            def some_are_written() -> bool:
                assert process.poll() is None, process.communicate()[1].decode()
                return len(list(output.parent.glob("*.parts/*"))) >= 8

            wait_until(some_are_written, "some parts are written", START_SECONDS)
            yield process
        finally:
            process.kill()


@pytest.mark.thorough
@with_ray
def test_a_client_that_is_killed_leaves_no_worker_and_its_run_goes_on(classify, cluster, tiny, tmp_path):
    folder = pictures(tmp_path / "p", 500)
    with client(folder, tmp_path / "a.csv", tiny, cluster) as process:
        assert len(workers(cluster)) >= 2
        process.kill()
    assert not (tmp_path / "a.csv").exists()
    wait_until(lambda: not workers(cluster), "the workers end with their client")
    assert classify(folder, "--out", tmp_path / "a.csv", "--chunk", "1", "--resume") == 0
    assert classify(folder, "--out", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.thorough
@with_ray
def test_a_run_goes_on_where_it_did_not_begin(classify, cluster, bucket, tmp_path, capsys, monkeypatch):
    for variable, value in bucket.items():
        monkeypatch.setenv(variable, value)
    sources = [pictures(tmp_path / "p", 7), f"s3://{BUCKET}/q"]
    assert classify(*sources, "--out", tmp_path / "whole.jsonl") == 0
    write_part, start = PartsFolder.write_part, Pool.start
    choices: list[Any] = []

    def started(self):
        choices.append(self.choice)
        start(self)

    monkeypatch.setattr(Pool, "start", started)

    def interrupt(self, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        write_part(self, number, *rest)

    def terminate(self, number, *rest):
        """Have SIGTERM come while Ray waits in C++, which swallows what a handler raises."""
        import ray

        if number == 2:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            never = ray.remote(num_cpus=0)(lambda: time.sleep(60)).remote()
            while True:
                ray_cluster.wait_for([never])
        write_part(self, number, *rest)

    on_ray = ["--ray", cluster, "--ray-workers", "1"]
    for name, first, then, stop, status in (
        ("a.jsonl", [], on_ray, interrupt, 130),
        ("b.jsonl", on_ray, [], terminate, 143),
    ):
        output = tmp_path / name
        with monkeypatch.context() as patched:
            patched.setattr(PartsFolder, "write_part", stop)
            assert classify(*sources, "--out", output, *first) == status
            wait_until(lambda: not workers(cluster), "Ctrl-C ends the workers")
        assert f"interrupted; what is done is in {output}.parts" in capsys.readouterr().err
        with monkeypatch.context() as patched:
            patched.setattr(
                "sgn_serve.serving.engine_choice.choose_engine", lambda *_: pytest.fail("it is chosen anew")
            )
            assert classify(*sources, "--out", output, "--resume", *then) == 0
        assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [row["error_code"] for row in read_rows(tmp_path / "whole.jsonl")] == [None] * 14
    resumed, begun = choices
    assert resumed is not None  # workers are told the engine of the process that began
    assert begun is None


@with_ray
def test_an_input_that_ends_workers_is_an_error_of_its_row(cluster, tiny, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(pool_module, "Worker", FragileWorker)
    with (
        Cluster(RayOptions(cluster, cores=1)) as connected,
        closing(Pool(Settings(model_path=tiny), None, connected, notes.append)) as pool,
    ):
        pool.start()
        assert pool.ahead == 8
        poisoned = pool.submit([Item("before it"), Item(POISON), Item("after it")])
        chunks = [pool.submit([Item(str(number))]) for number in range(6)]
        rows: list[Any] = poisoned.result()
        names: list[Any] = [chunk.result() for chunk in chunks]
        assert names == [[str(number)] for number in range(6)]
    assert (rows[0], rows[2]) == ("before it", "after it")
    assert rows[1] == error_row(
        POISON, "on", "worker_ended", "it has ended 3 workers, the last on here (its process has ended)"
    )
    assert pool.answered == 9
    lost = [note for note in notes if "is lost (its process has ended); what it had is done again" in note]
    told = [note for note in notes if note not in lost]
    assert told == [
        "the chunk of 3 inputs that begins with before it has ended 3 workers; its halves are tried one by one",
        "the chunk of 2 inputs that begins with poison has ended 3 workers; its halves are tried one by one",
    ]
    assert len(lost) == 3 + 1 + 2


@with_ray
def test_a_head_that_is_not_there_is_told_at_once(classify, tmp_path, capsys):
    folder, output = pictures(tmp_path / "p", 1), tmp_path / "a.csv"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
        for address, reason in (
            (nowhere, "the head of the cluster cannot be reached (Connection refused); start it with ray start --head"),
            ("somewhere", "this is no address; give HOST:PORT, such as head.example:6379, or auto"),
            ("ray://127.0.0.1:10001", "Ray's client is not supported; run the command on a machine of the cluster"),
        ):
            assert classify(folder, "--out", output, "--ray", address) == 2
            (error,) = capsys.readouterr().err.splitlines()
            assert error.startswith(f"error: --ray {address}: {reason}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


@with_ray
def test_an_empty_address_in_the_environment_is_none(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "")
    connected: list[str] = []
    monkeypatch.setattr(Cluster, "_connect", lambda self, address: connected.append(address))
    Cluster(RayOptions("auto")).__enter__()
    assert connected == ["auto"]


def test_without_ray_the_extra_is_named(classify, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    folder = pictures(tmp_path / "p", 1)
    assert classify(folder, "--out", tmp_path / "a.csv", "--ray", "auto") == 2
    assert capsys.readouterr().err == (
        "error: --ray needs Ray, which is not installed; install it with "
        'pip install "self-gradient-networks[ray]", or leave --ray out\n'
    )
    assert classify(folder, "--out", tmp_path / "a.csv") == 0


def test_a_pool_without_a_head_says_so_and_ends(tiny, monkeypatch):
    """Ray itself would wait for a minute and end the process."""
    connected = Cluster(RayOptions("nowhere"))
    pool = Pool(Settings(model_path=tiny), None, connected, lambda note: None)
    monkeypatch.setattr(pool_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(ray_cluster, "HEAD_SECONDS", 0.05)
    monkeypatch.setitem(sys.modules, "ray", sys)
    monkeypatch.setattr(Cluster, "head_answers", lambda self: False)
    monkeypatch.setattr(Cluster, "size", lambda self, wants_gpu: Size(1, 1, 0))
    with pytest.raises(RayError, match=r"the head of the Ray cluster does not answer any more; once it is up"):
        pool.start()
    assert connected.lost


def test_an_end_without_a_head_does_not_wait_for_it(monkeypatch):
    """Ctrl-C may come before the pool has noticed that the head is gone. Ray would end the process after a minute."""
    ended: list[threading.Thread] = []
    shutdown = SimpleNamespace(shutdown=lambda: ended.append(threading.current_thread()))
    monkeypatch.setitem(sys.modules, "ray", shutdown)
    for answers in (True, False):
        monkeypatch.setattr(Cluster, "head_answers", lambda self, answers=answers: answers)
        Cluster(RayOptions("nowhere")).__exit__()
    here, elsewhere = ended
    assert here is threading.current_thread()
    assert elsewhere is not threading.current_thread()


def test_workers_get_no_tokens_of_the_service(tiny):
    settings = Settings(model_path=tiny, api_tokens=("a-token-of-the-service",), top_k=2)
    pool = Pool(settings, None, Cluster(RayOptions("nowhere")), lambda note: None)
    sent = pickle.dumps(pool._settings)
    assert b"a-token-of-the-service" in pickle.dumps(settings)
    assert b"a-token-of-the-service" not in sent
    assert pickle.loads(sent).top_k == 2


@pytest.mark.parametrize(
    ("machines", "options", "gpu", "expected"),
    [
        ([{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}], (None, None), False, Size(3, 4, 0)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], (None, 3), False, Size(3, 3, 0)),
        ([{"CPU": 8.0}], (5, None), False, Size(5, 8, 0)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], (None, None), True, Size(2, 4, 1)),
        ([], (2, 4), False, Size(2, 4, 0)),
    ],
)
def test_the_pool_has_as_many_workers_as_the_cluster_has_room_for(machines, options, gpu, expected):
    assert fitting_size(machines, RayOptions("auto", *options), gpu) == expected


def test_a_cluster_without_room_says_so():
    with pytest.raises(RayError, match=r"no machine of the cluster has 16 cores for Ray; give a smaller"):
        fitting_size([{"CPU": 8.0}], RayOptions("auto", cores=16), False)


def test_a_worker_whose_rows_would_be_others_is_left_out(tiny, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(Pool, "_remove", lambda self, member: self._members.remove(member))
    pool = Pool(Settings(model_path=tiny), None, Cluster(RayOptions("nowhere")), notes.append)
    one, two, three = (pool_module._Member(None, name, 7) for name in ("one", "two", "three"))
    pool._members = [one, two, three]
    choice = EngineChoice("onnxruntime", None, "it is asked for")

    def started(model: str, version: str = package_version()) -> Any:
        return SimpleNamespace(card=None, choice=choice, version=version, decisive={"model": model})

    with pytest.raises(ClassifyError, match=r"^one has version 0\.0 of this package, and this machine .* on every"):
        pool._admit(one, started("a", "0.0"))
    pool._admit(one, started("a"))
    pool._admit(two, started("b"))
    assert pool.choice == choice
    assert pool._members == [one, three]
    assert notes == ["the worker on two (process 7) is left out: its model is b, and that of the others a"]
    pool._members = [three]
    with pytest.raises(ClassifyError, match=r"^no worker is left \(its model is b, "):
        pool._admit(three, started("b"))


def test_a_chunk_is_not_blamed_for_workers_that_the_one_beside_it_ended(tiny, monkeypatch):
    monkeypatch.setattr(Pool, "_remove", lambda self, member: self._members.remove(member))
    monkeypatch.setattr(pool_module, "reason_of_loss", lambda error: "its process has ended")
    pool = Pool(Settings(model_path=tiny), None, Cluster(RayOptions("nowhere")), lambda note: None)

    def join() -> Any:
        actor = SimpleNamespace(classify=SimpleNamespace(remote=lambda items: object()))
        member = pool_module._Member(actor, "one", 7, SimpleNamespace())  # type: ignore[arg-type]
        pool._members.append(member)
        pool._hand_out()
        return member

    guilty, innocent, later = (pool.submit([Item(name)]) for name in ("guilty", "innocent", "later"))
    pool.answered = 1
    for chunks in ([guilty, innocent], [guilty]):
        member = join()
        assert member.chunks == chunks
        pool._lose(member, RuntimeError())
    member, other = join(), join()
    assert (member.chunks, other.chunks) == ([guilty], [innocent])
    other.chunks.clear()
    pool._hand_out()
    assert (member.chunks, other.chunks) == ([guilty], [later])
    pool._first = SimpleNamespace(card=SimpleNamespace(default_mode="off"))  # type: ignore[assignment]
    pool.choice = EngineChoice("onnxruntime", None, "it is asked for")
    pool._lose(member, RuntimeError())
    assert [(row.path, row.mode, row.error_code) for row in guilty.result()] == [("guilty", "off", "worker_ended")]
    assert innocent.losses == 1
    assert not guilty.mishaps


def losing(pool: Pool, reasons: Iterator[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that gives a worker what waits, and has it lost for the next reason."""
    monkeypatch.setattr(Pool, "_remove", lambda self, member: self._members.remove(member))
    monkeypatch.setattr(pool_module, "reason_of_loss", lambda error: next(reasons))
    pool._first = SimpleNamespace(card=SimpleNamespace(default_mode="on"))  # type: ignore[assignment]

    def lose() -> None:
        actor = SimpleNamespace(classify=SimpleNamespace(remote=lambda items: object()))
        pool._members.append(pool_module._Member(actor, "one", 7, SimpleNamespace()))  # type: ignore[arg-type]
        pool._hand_out()
        pool._lose(pool._members[0], RuntimeError())

    return lose


def test_a_lost_machine_is_no_inputs_fault(tiny, monkeypatch):
    pool = Pool(Settings(model_path=tiny), None, Cluster(RayOptions("nowhere")), lambda note: None)
    pool.answered = 1
    away = "its machine does not answer"
    lose = losing(pool, iter([away, away, *[PROCESS_ENDED] * 3, away, PROCESS_ENDED, PROCESS_ENDED]), monkeypatch)
    chunk = pool.submit([Item("a.png"), Item("b.png")])
    for _ in range(8):
        lose()
    assert chunk.halves is not None
    assert [(half.losses, half.mishaps, half.rows is None) for half in chunk.halves] == [(3, 1, False), (1, 0, True)]
    lose = losing(pool, iter([away] * 3), monkeypatch)
    lose()
    lose()
    with pytest.raises(
        ClassifyError, match=r"^b\.png has lost 3 workers, the last on one \(its machine does not answer"
    ):
        lose()


def test_an_input_is_not_blamed_before_a_worker_has_answered(tiny, monkeypatch):
    pool = Pool(Settings(model_path=tiny), None, Cluster(RayOptions("nowhere")), lambda note: None)
    lose = losing(pool, repeat(PROCESS_ENDED), monkeypatch)
    first, second = pool.submit([Item("a.png")]), pool.submit([Item("b.png")])
    for _ in range(3):
        lose()
    assert (first.rows, list(pool._waiting)) == (None, [second, first])


def test_a_chunk_is_halved_between_two_batches(tiny):
    pool = Pool(Settings(model_path=tiny, max_batch=32), None, Cluster(RayOptions("nowhere")), lambda note: None)
    sizes = {}
    for count in (1000, 65, 40, 32, 3, 2):
        sizes[count] = [len(half.items) for half in Chunk(pool, 0, [Item("x")] * count).halve()]
    assert sizes == {1000: [480, 520], 65: [32, 33], 40: [32, 8], 32: [16, 16], 3: [1, 2], 2: [1, 1]}


def test_workers_that_end_with_every_chunk_end_the_run(tiny, monkeypatch):
    """A network that takes too much memory ends its workers whatever they are given."""
    pool = Pool(Settings(model_path=tiny), None, Cluster(RayOptions("nowhere")), lambda note: None)
    lose = losing(pool, repeat(PROCESS_ENDED), monkeypatch)
    chunks = [pool.submit([Item(f"{number}.png")]) for number in range(3)]
    chunks.append(pool.submit([Item(f"{number}.png") for number in range(1000)]))
    for _ in range(39):
        lose()
    with pytest.raises(
        ClassifyError, match=r"^40 workers in a row have ended, the last on one \(its process has ended\); give"
    ):
        lose()
    assert [chunk.rows for chunk in chunks] == [None] * 4


@with_ray
@pytest.mark.parametrize("within_a_task", [True, False])
@pytest.mark.parametrize("name", ["ObjectStoreFullError", "OutOfDiskError"])
def test_a_full_store_counts_as_a_lost_worker(within_a_task, name, tiny, monkeypatch):
    import ray

    loss: Exception = getattr(ray.exceptions, name)("it is full")
    if within_a_task:
        loss = ray.exceptions.RayTaskError("classify", "traceback", loss).as_instanceof_cause()
    notes: list[str] = []

    def get(answer: Any) -> Any:
        raise loss

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(Pool, "_remove", lambda self, member: self._members.remove(member))
    pool = Pool(Settings(model_path=tiny), None, Cluster(RayOptions("nowhere")), notes.append)
    chunk = pool.submit([Item("a.png")])

    def lose() -> None:
        answer = object()
        actor = SimpleNamespace(classify=SimpleNamespace(remote=lambda items: answer))
        pool._members.append(pool_module._Member(actor, "one", 7, SimpleNamespace()))  # type: ignore[arg-type]
        pool._hand_out()
        pool._take(pool._calls.pop(answer), answer)

    for losses in (1, 2):
        lose()
        assert (list(pool._waiting), chunk.mishaps, pool._missing, pool._members) == ([chunk], losses, losses, [])
    assert notes == [f"the worker on one (process 7) is lost ({name}); what it had is done again"] * 2
    with pytest.raises(
        ClassifyError, match=rf"^a\.png has lost 3 workers, the last on one \({name}\); give workers more memory"
    ):
        lose()


def test_a_share_that_a_worker_does_not_see_ends_the_run(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    names = ["a.png", "b.png"]
    items = [Item(name, file=os.fsencode(tmp_path / name)) for name in names]
    member = pool_module._Member(None, "node7", 12)
    chunk = Chunk(None, 0, items)  # type: ignore[arg-type]
    unread = [error_row(name, "on", UNREADABLE, "No such file or directory") for name in names]
    with pytest.raises(ClassifyError, match=r"^the worker on node7 \(process 12\) cannot read a\.png \(No such file"):
        pool_module._check_files(member, chunk, unread)
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"x"]}), tmp_path / "t")
    table, damaged = ([Item("t:0", table=os.fsencode(tmp_path / name), column="image")] for name in ("t", "a.png"))
    pool_module._check_files(member, Chunk(None, 0, damaged), [error_row("t:0", "on", UNREADABLE, "")])  # type: ignore[arg-type]
    in_table = Chunk(None, 0, table)  # type: ignore[arg-type]
    with pytest.raises(ClassifyError, match=r"cannot read t:0 \(gone\), and this machine can"):
        pool_module._check_files(member, in_table, [error_row("t:0", "on", UNREADABLE, "gone")])
    pool_module._check_files(member, in_table, [error_row("t:0", "on", DAMAGED_TABLE, "damaged")])
    pool_module._check_files(member, chunk, [error_row("a.png", "on", "empty_file", ""), unread[1]])
    (tmp_path / "a.png").unlink()
    pool_module._check_files(member, chunk, unread)


@pytest.mark.thorough
@with_ray
def test_a_head_that_is_killed_ends_the_run_which_goes_on(classify, tiny, tmp_path):
    folder = pictures(tmp_path / "p", 500)
    with local_cluster({}) as address, client(folder, tmp_path / "a.csv", tiny, address) as process:
        kill_head(address)
        _, told = process.communicate(timeout=90)
    assert process.returncode == 2, "as judging ends"
    assert not (tmp_path / "a.csv").exists()
    assert told.decode().splitlines()[-1] == (
        "error: the head of the Ray cluster does not answer any more; once it is up again, the same command with "
        "--resume goes on"
    )
    assert classify(folder, "--out", tmp_path / "a.csv", "--chunk", "1", "--resume") == 0
    assert classify(folder, "--out", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
