"""The Kubernetes manifests: valid, not root, closed to other pods, and telling raymdm what they may grow to."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from kuberay_schema import SCHEMAS
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from raymdm.orchestrate.cluster import autoscaled

Manifest = dict[str, Any]

KUBERNETES = "1.33"


@pytest.fixture
def common(repo_root: Path) -> dict[str, Manifest]:
    """The objects of common.yaml by kind."""
    loaded = yaml.safe_load_all((repo_root / "deploy" / "kuberay" / "common.yaml").read_text())
    return {manifest["kind"]: manifest for manifest in loaded}


@pytest.fixture
def cluster(repo_root: Path) -> Manifest:
    loaded: Manifest = yaml.safe_load((repo_root / "deploy" / "kuberay" / "raycluster.yaml").read_text())
    return loaded


@pytest.fixture
def job(repo_root: Path) -> Manifest:
    loaded: Manifest = yaml.safe_load((repo_root / "deploy" / "kuberay" / "rayjob.yaml").read_text())
    return loaded


@pytest.fixture
def templates(cluster: Manifest, job: Manifest) -> dict[str, Manifest]:
    """Every pod template by its group."""
    groups = {group["groupName"]: group["template"] for group in cluster["spec"]["workerGroupSpecs"]}
    head, submitter = cluster["spec"]["headGroupSpec"]["template"], job["spec"]["submitterPodTemplate"]
    return {"head": head, "submitter": submitter, **groups}


def _autoscaler(cluster: Manifest) -> Manifest:
    """A pod with the container that KubeRay makes of the autoscaler's options."""
    of_ray = {"idleTimeoutSeconds", "upscalingMode", "version"}
    options = {name: value for name, value in cluster["spec"]["autoscalerOptions"].items() if name not in of_ray}
    return {"metadata": {"name": "pod"}, "spec": {"containers": [{"name": "autoscaler", **options}]}}


def _errors(manifest: Manifest) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMAS[manifest["kind"]]).iter_errors(manifest)]


def _as_pod(template: Manifest) -> Manifest:
    return {"apiVersion": "v1", "kind": "Pod", **template}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from (name, *_strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value


def test_ray_s_objects_have_the_fields_of_kuberay(cluster: Manifest, job: Manifest) -> None:
    assert _errors(cluster) + _errors(job) == []


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (["spec", "headGroupSpec", "unheard_of"], 1),
        (["spec", "workerGroupSpecs", 0, "maxReplicas"], "4"),
        (["spec", "autoscalerOptions", "version"], "v3"),
        (["spec", "authOptions", "mode"], "password"),
    ],
)
def test_a_wrong_field_would_be_refused(cluster: Manifest, place: list[Any], wrong: object) -> None:
    broken: Any = copy.deepcopy(cluster)
    *way, last = place
    inner = broken
    for step in way:
        inner = inner[step]
    inner[last] = wrong
    assert _errors(broken)


def test_kubernetes_accepts_every_pod(templates: dict[str, Manifest], cluster: Manifest) -> None:
    for template in [*templates.values(), _autoscaler(cluster)]:
        kubernetes_validate.validate(_as_pod(template), KUBERNETES, strict=True)


def test_kubernetes_accepts_what_is_common(common: dict[str, Manifest]) -> None:
    assert sorted(common) == ["ConfigMap", "Namespace", "NetworkPolicy", "PersistentVolumeClaim"]
    for manifest in common.values():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_kubernetes_would_refuse_an_unknown_field(templates: dict[str, Manifest], cluster: Manifest) -> None:
    broken = copy.deepcopy(cluster)
    broken["spec"]["autoscalerOptions"]["resources"]["unheard_of"] = 1
    pod = copy.deepcopy(_as_pod(templates["head"]))
    pod["spec"]["containers"][0]["unheard_of"] = 1
    for wrong in (pod, _as_pod(_autoscaler(broken))):
        with pytest.raises(kubernetes_validate.ValidationError, match="unheard_of"):
            kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_job_s_cluster_is_the_cluster(cluster: Manifest, job: Manifest) -> None:
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_ray_s_autoscaler_reads_it(cluster: Manifest) -> None:
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    workers = {name: kind for name, kind in config["available_node_types"].items() if name != "headgroup"}
    assert {name: (kind["min_workers"], kind["resources"].get("GPU")) for name, kind in workers.items()} == {
        "cpu": (0, None), "gpu-spot": (0, 1), "gpu-on-demand": (0, 1),
    }  # fmt: skip
    assert config["idle_timeout_minutes"] == 10


def test_raymdm_hears_what_the_cluster_may_grow_to(
    cluster: Manifest, common: dict[str, Manifest], tmp_path: Path
) -> None:
    told = tmp_path / "ray_bootstrap_config.yaml"
    told.write_text(common["ConfigMap"]["data"][told.name])
    meant = tmp_path / "meant.yaml"
    meant.write_text(yaml.safe_dump(_derive_autoscaling_config_from_ray_cr(cluster)))
    assert sorted(autoscaled(told)) == sorted(autoscaled(meant))


def test_the_head_finds_that_file(cluster: Manifest, common: dict[str, Manifest]) -> None:
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (v["name"] for v in head["volumes"] if "configMap" in v)
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == volume)
    assert mount["mountPath"] == f"/opt/ray/{mount['subPath']}"
    assert mount["subPath"] in common["ConfigMap"]["data"]


def test_spot_machines_have_a_fallback_of_the_same_shape(cluster: Manifest) -> None:
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    spot, fallback = groups["gpu-spot"], groups["gpu-on-demand"]
    assert spot["priority"] > fallback["priority"]
    shapes = [group["template"]["spec"]["containers"][0]["resources"] for group in (spot, fallback)]
    assert shapes[0] == shapes[1]
    selectors = [group["template"]["spec"]["nodeSelector"] for group in (spot, fallback)]
    assert selectors[0] != selectors[1]


def test_no_pod_is_root_or_can_become_it(cluster: Manifest, templates: dict[str, Manifest]) -> None:
    assert len(templates) == 5
    contexts = [cluster["spec"]["autoscalerOptions"]["securityContext"]]
    for template in templates.values():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        contexts += [container["securityContext"] for container in pod["containers"]]
    assert all(
        context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}} for context in contexts
    )


def test_kubernetes_itself_refuses_privileged_pods(common: dict[str, Manifest]) -> None:
    assert common["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_only_the_cluster_and_its_operator_come_in(common: dict[str, Manifest], templates: dict[str, Manifest]) -> None:
    policy = common["NetworkPolicy"]["spec"]
    label = policy["podSelector"]["matchLabels"]
    assert label
    assert all(label.items() <= template["metadata"]["labels"].items() for template in templates.values())
    assert policy["policyTypes"] == ["Ingress"]
    own, operator = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": label}}]}
    (sender,) = operator["from"]
    assert sender["namespaceSelector"]["matchLabels"] and sender["podSelector"]["matchLabels"]
    assert [port["port"] for port in operator["ports"]] == [8265]


def test_no_service_faces_the_world(cluster: Manifest) -> None:
    head = cluster["spec"]["headGroupSpec"]
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)


def test_every_request_needs_the_token(cluster: Manifest) -> None:
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def test_secrets_come_from_secrets(templates: dict[str, Manifest]) -> None:
    env = [entry for template in templates.values() for entry in template["spec"]["containers"][0].get("env", [])]
    secret = [entry for entry in env if re.search(r"TOKEN|PASSWORD|KEY|SECRET", entry["name"])]
    assert secret
    assert all(set(entry) == {"name", "valueFrom"} and "secretKeyRef" in entry["valueFrom"] for entry in secret)


def test_a_worker_that_is_taken_away_has_time_to_drain(templates: dict[str, Manifest]) -> None:
    workers = [templates[name]["spec"] for name in ("cpu", "gpu-spot", "gpu-on-demand")]
    for pod in workers:
        env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        drain = float(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] or 0)
        assert 0 < drain < pod["terminationGracePeriodSeconds"]


def test_has_the_pinned_ray(cluster: Manifest, repo_root: Path) -> None:
    assert f"ray=={cluster['spec']['rayVersion']}" in (repo_root / "constraints.txt").read_text().splitlines()


def test_the_job_runs_a_file_of_the_image(job: Manifest, repo_root: Path) -> None:
    files = re.findall(r"/opt/raymdm/(\S+)", job["spec"]["entrypoint"])
    assert len(files) == 2
    assert all((repo_root / file).is_file() for file in files)


def test_no_image_names_a_registry(cluster: Manifest, job: Manifest) -> None:
    images = {text for text in _strings([cluster, job]) if "raymdm:" in text}
    assert len(images) == 1
    assert images.pop().startswith("REGISTRY/")
