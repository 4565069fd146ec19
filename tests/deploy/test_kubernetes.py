"""deploy/kubernetes: valid for the API's schemas, put together rightly, and in line with the service and its image."""

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from sgn_serve.http.error_form import ANSWER_SECONDS
from sgn_serve.settings import Settings
from tests.deploy.rendered import Manifest, kustomize_command, render, render_with

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
FOLDERS = ["base", "gpu"]
VERSIONS = ["1.29", "1.32", kubernetes_validate.latest_version()]
KINDS = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}


@pytest.fixture(params=FOLDERS)
def manifests(request: pytest.FixtureRequest) -> dict[str, Manifest]:
    """The manifests by kind."""
    return {manifest["kind"]: manifest for manifest in render(KUBERNETES / request.param)}


def pod(manifests: dict[str, Manifest]) -> Any:
    return manifests["Deployment"]["spec"]["template"]


def container(manifests: dict[str, Manifest]) -> Any:
    (only,) = pod(manifests)["spec"]["containers"]
    return only


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tests_render_what_kustomize_does(folder: str) -> None:
    command = kustomize_command()
    if command is None:
        pytest.skip("neither kustomize nor kubectl is there; install one of them")
    theirs, ours = render_with(command, KUBERNETES / folder), render(KUBERNETES / folder)
    assert sorted(theirs, key=lambda manifest: manifest["kind"]) == sorted(ours, key=lambda manifest: manifest["kind"])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(manifests: dict[str, Manifest], version: str) -> None:
    assert set(manifests) == KINDS
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_wrong_manifest_would_be_seen() -> None:
    (deployment,) = [manifest for manifest in render(KUBERNETES / "base") if manifest["kind"] == "Deployment"]
    misspelt = copy.deepcopy(deployment)
    misspelt["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    wrong_type = copy.deepcopy(deployment)
    wrong_type["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "75 s"
    for wrong in (misspelt, wrong_type):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_a_patch_that_does_not_apply_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(KUBERNETES / "base")
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "kustomization.yaml").write_text((KUBERNETES / "gpu" / "kustomization.yaml").read_text())
    path = "/spec/template/spec/containers/1/image"
    (tmp_path / "gpu" / "deployment.yaml").write_text(yaml.safe_dump([{"op": "replace", "path": path, "value": "x"}]))
    with pytest.raises((jsonpatch.JsonPatchException, jsonpatch.JsonPointerException)):
        render(tmp_path / "gpu")


def test_the_parts_find_each_other(manifests: dict[str, Manifest]) -> None:
    labels = pod(manifests)["metadata"]["labels"]
    selectors = [
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert scaled["name"] == manifests["Deployment"]["metadata"]["name"]
    assert scaled["kind"] == "Deployment"
    ports = {port["name"] for port in container(manifests)["ports"]}
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} <= ports
    assert {port["port"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]} <= ports
    volumes = {volume["name"] for volume in pod(manifests)["spec"]["volumes"]}
    assert {mount["name"] for mount in container(manifests)["volumeMounts"]} == volumes


def test_it_fits_the_image(manifests: dict[str, Manifest]) -> None:
    dockerfile = DockerfileParser(str(ROOT / "deploy" / "Dockerfile"))
    (user,) = [step["value"] for step in dockerfile.structure if step["instruction"] == "USER"]
    security = pod(manifests)["spec"]["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    (port,) = container(manifests)["ports"]
    assert str(port["containerPort"]) == dockerfile.envs["BENTOML_PORT"]
    assert pod(manifests)["metadata"]["annotations"]["prometheus.io/port"] == dockerfile.envs["BENTOML_PORT"]
    (mount,) = container(manifests)["volumeMounts"]
    assert all(dockerfile.envs[name].startswith(mount["mountPath"]) for name in ("HOME", "BENTOML_HOME"))
    name, _, tag = container(manifests)["image"].partition(":")
    assert name == "self-gradient-network"
    assert tag in ("cpu", "gpu"), "as make image tags it"


def test_it_meets_the_restricted_pod_security_standard(manifests: dict[str, Manifest]) -> None:
    """Source: Kubernetes' documentation, Pod Security Standards, restricted; and a read-only root file system."""
    spec = pod(manifests)["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(manifests)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"])


def test_what_is_accepted_is_answered_before_the_end(manifests: dict[str, Manifest]) -> None:
    seconds = int(container(manifests)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert container(manifests)["lifecycle"]["preStop"]["exec"]["command"][0] == "sleep"
    assert pod(manifests)["spec"]["terminationGracePeriodSeconds"] >= seconds + ANSWER_SECONDS + 10


def test_its_settings_are_the_services(manifests: dict[str, Manifest]) -> None:
    """An SGN_ variable that is no setting ends the server, so Kubernetes must add none of its own either."""
    spec = container(manifests)
    values = {item["name"]: item.get("value", "2") for item in spec["env"]}
    settings = Settings.from_environment(values)
    assert settings.threads == 2
    (threads,) = [item["valueFrom"]["resourceFieldRef"] for item in spec["env"] if item["name"] == "SGN_THREADS"]
    assert threads == {"containerName": spec["name"], "resource": "limits.cpu", "divisor": "1"}
    assert float(spec["resources"]["limits"]["cpu"]).is_integer()
    assert pod(manifests)["spec"]["enableServiceLinks"] is False


def test_it_scales_before_it_refuses(manifests: dict[str, Manifest]) -> None:
    scaler = manifests["HorizontalPodAutoscaler"]["spec"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == "sgn_queue_pictures"
    assert 1 <= int(metric["pods"]["target"]["averageValue"]) <= Settings().max_queue / 4
    assert scaler["minReplicas"] >= 2, "else the disruption budget would stop a node from being emptied, or the service"
    assert "replicas" not in manifests["Deployment"]["spec"], "it would undo the autoscaler at every apply"


def test_the_gpu_overlay_gives_a_gpu_and_insists_on_it() -> None:
    manifests = {manifest["kind"]: manifest for manifest in render(KUBERNETES / "gpu")}
    spec = container(manifests)
    assert spec["image"].endswith(":gpu")
    assert spec["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "SGN_PROVIDERS", "value": "cuda,cpu"} in spec["env"]
    assert {item["key"] for item in pod(manifests)["spec"]["tolerations"]} == {"nvidia.com/gpu"}
    assert manifests["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
