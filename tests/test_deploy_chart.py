"""What the chart in deploy/chart makes is valid, safe, and says the same as the code.

It is read from deploy/kubernetes, which scripts/render_chart makes, so that it is tested where there is no Helm too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from command_lines import mistake
from crd_schemas import SCHEMAS
from deployments import CHART, DEPLOY, ROOT, instruction, rendered, settings_of
from jsonschema import Draft7Validator
from prometheus_client import CollectorRegistry

from schemas.topics import domains
from streams._settings_redact import STARS
from streams.observe.health import Endpoint, always
from streams.running import group_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streams.settings import Loaded

RENDERED = ("plain", "everything", "deployment")
KUBERNETES = ("1.29", "1.34", "1.37")
"""The oldest that the chart takes, one between, the newest that the schemas know."""
Manifest = dict[str, Any]


def every(kind: str, name: str) -> list[Manifest]:
    """The objects of a kind in a rendering."""
    return [one for one in rendered(name) if one["kind"] == kind]


def only(kind: str, name: str, component: str = "") -> Manifest:
    """The one object of a kind, and of a component."""
    label = "app.kubernetes.io/component"
    [found] = [one for one in every(kind, name) if not component or one["metadata"]["labels"].get(label) == component]
    return found


def workloads(name: str) -> Iterator[tuple[str, Manifest]]:
    """Component and object of whatever has pods."""
    for one in rendered(name):
        if one["kind"] in ("StatefulSet", "Deployment"):
            yield one["metadata"]["labels"]["app.kubernetes.io/component"], one


PODS = [
    pytest.param(name, component, one["spec"]["template"]["spec"], id=f"{name}-{component}")
    for name in RENDERED
    for component, one in workloads(name)
]
EVERY_POD = pytest.mark.parametrize(("name", "component", "pod"), PODS)


def container(pod: Manifest) -> Manifest:
    """The one container of a pod."""
    [found] = pod["containers"]
    assert isinstance(found, dict)
    return found


def environment(pod: Manifest) -> dict[str, str]:
    """The variables of its container, each of which is set once."""
    pairs = [(one["name"], one["value"]) for one in container(pod)["env"]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.fixture
def loaded(pod: Manifest, tmp_path: Path) -> Loaded:
    """The settings that a pod starts with."""
    return settings_of(environment(pod), tmp_path / "secrets")


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", RENDERED)
def test_kubernetes_would_take_it(name: str, version: str) -> None:
    """Each object fits its schema, and has no field that the schema does not know."""
    for one in rendered(name):
        if one["kind"] in SCHEMAS:
            errors = [error.message for error in Draft7Validator(SCHEMAS[one["kind"]]).iter_errors(one)]
            assert [] == errors
        else:
            assert version == kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_are_strict() -> None:
    """A misspelt field in an object of Kubernetes' or in one of KEDA's is found."""
    workload = copy.deepcopy(only("StatefulSet", "plain"))
    workload["spec"]["template"]["spec"]["terminationGracePeriod"] = 3
    scaled = copy.deepcopy(only("ScaledObject", "plain"))
    scaled["spec"]["triggers"][0]["metadata"]["lagTreshold"] = "3"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(workload, KUBERNETES[-1], strict=True)
    assert not Draft7Validator(SCHEMAS["ScaledObject"]).is_valid(scaled)


def test_renderings_are_fresh() -> None:
    """Whoever changes the chart runs scripts/render_chart: the renderings name the sources that they were made from."""
    sums = "".join(
        f"{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}  {path}\n"
        for path in sorted(str(path.relative_to(ROOT)) for path in CHART.rglob("*") if path.is_file())
    )
    sources = hashlib.sha256(sums.encode()).hexdigest()
    made = {path.stem: path.read_text() for path in (DEPLOY / "kubernetes").glob("*.yaml")}

    assert set(RENDERED) == set(made) == {path.name[: -len("-values.yaml")] for path in (CHART / "ci").iterdir()}
    assert [] == [name for name, text in made.items() if f"# Sources: {sources}\n" not in text]


@EVERY_POD
def test_commands_exist(name: str, component: str, pod: Manifest) -> None:
    """`headrace` takes the arguments as they stand, and they are those of the component."""
    assert "" == mistake(container(pod)["args"])
    assert component == container(pod)["args"][0]


@EVERY_POD
def test_every_variable_is_a_setting(name: str, component: str, pod: Manifest, loaded: Loaded) -> None:
    """Each variable of a container is read, and the value is of the setting's type."""
    variables = set(environment(pod))

    assert all(variable.startswith("HEADRACE_") for variable in variables)
    assert set() == variables - set(loaded.origins.values())


@EVERY_POD
def test_probes_and_ports_are_those_of_the_code(name: str, component: str, pod: Manifest, loaded: Loaded) -> None:
    """The port is the image's, all settings listen there, and each path that is probed has an answer."""
    one = container(pod)
    [port] = one["ports"]
    probes = [one[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    settings = loaded.settings
    [service] = [s for s in every("Service", name) if s["spec"]["selector"]["app.kubernetes.io/component"] == component]
    with Endpoint(CollectorRegistry(), always) as endpoint:
        answers = [endpoint.answer(probe["path"])[0] for probe in probes]

    assert int(instruction("EXPOSE")) == port["containerPort"] == service["spec"]["ports"][0]["port"]
    assert {port["containerPort"]} == {settings.metrics.port, settings.store.port, settings.monitor.web_port}
    assert ["/health/live", "/health/live", "/health/ready"] == [probe["path"] for probe in probes]
    assert {port["name"]} == {probe["port"] for probe in probes}
    assert [200, 200, 200] == answers


@EVERY_POD
def test_pods_are_restricted(name: str, component: str, pod: Manifest) -> None:
    """As the restricted Pod Security Standard wants it, with a read-only root file system and no token besides."""
    one = container(pod)
    uid, gid = map(int, instruction("USER").split(":"))

    assert {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": gid,
        "fsGroup": gid,
        "seccompProfile": {"type": "RuntimeDefault"},
    } == pod["securityContext"]
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == one["securityContext"]
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
    assert {"emptyDir", "secret"} >= {kind for volume in pod["volumes"] for kind in volume if kind != "name"}


@EVERY_POD
def test_what_is_written_is_a_volume(name: str, component: str, pod: Manifest) -> None:
    """The data folder and /tmp are, with a limit, and a GPU's cache; everything else that is mounted is read-only."""
    mounts = {mount["mountPath"]: mount for mount in container(pod)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {
        one["metadata"]["name"] for _, work in workloads(name) for one in work["spec"].get("volumeClaimTemplates", [])
    }
    written = {path: mount["name"] for path, mount in mounts.items() if not mount.get("readOnly")}

    assert {"/var/lib/headrace", "/tmp"} == set(written) - {"/var/cache/headrace"}
    assert claims == {of for path, of in written.items() if path == "/var/cache/headrace"} or component != "worker"
    assert all("sizeLimit" in volumes[of]["emptyDir"] for of in set(written.values()) - claims)
    assert set(volumes) == {mount["name"] for mount in mounts.values()} - claims


@EVERY_POD
def test_secrets_are_references(name: str, component: str, pod: Manifest, loaded: Loaded) -> None:
    """Files of Secrets that somebody else made: no secret's value is in a variable, nor in any object."""
    files = {variable: value for variable, value in environment(pod).items() if variable.endswith("_FILE")}
    mounts = {mount["mountPath"]: mount["name"] for mount in container(pod)["volumeMounts"]}
    volumes = {volume["name"]: volume.get("secret") for volume in pod["volumes"]}
    secret_settings = {key for key, value, _origin in loaded.effective() if STARS in str(value)}

    assert secret_settings or component == "monitor"
    for path in files.values():
        folder, _, file = path.rpartition("/")
        secret = volumes[mounts[folder]]
        assert [file] == [item["path"] for item in secret["items"]]
        assert 0o440 == secret["defaultMode"]
    for key in secret_settings:
        assert loaded.origins.get(key, "default") in {"default", *files}
    assert [] == every("Secret", name)


@EVERY_POD
def test_work_can_end_before_the_pod_does(name: str, component: str, pod: Manifest, loaded: Loaded) -> None:
    """Kubernetes' grace is longer than the process's own."""
    own_s = getattr(loaded.settings, component).shutdown_grace_s

    assert pod["terminationGracePeriodSeconds"] >= own_s + 5


@EVERY_POD
def test_resources_are_said(name: str, component: str, pod: Manifest) -> None:
    """Each has a request and a limit of memory, and a request of CPU, without which it could not be scaled by it."""
    resources = container(pod)["resources"]

    assert {"cpu", "memory"} == set(resources["requests"])
    assert {"memory"} == set(resources["limits"]) - {"nvidia.com/gpu"}


@EVERY_POD
def test_selectors_meet_their_pods(name: str, component: str, pod: Manifest) -> None:
    """Workload, Service and disruption budget of a component mean the same pods, and no others' ."""
    labels = {component: one["spec"]["template"]["metadata"]["labels"] for component, one in workloads(name)}
    selectors = [one["spec"]["selector"] for one in every("Service", name)]
    selectors += [one["spec"]["selector"]["matchLabels"] for part, one in workloads(name)]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in every("PodDisruptionBudget", name)]
    mine = [selector for selector in selectors if selector["app.kubernetes.io/component"] == component]

    assert len(mine) == 2 + (component == "worker")
    for selector in mine:
        assert [component] == [part for part, its in labels.items() if selector.items() <= its.items()]


def test_workers_keep_their_names(tmp_path: Path) -> None:
    """A StatefulSet's worker is a static member that is back before its session ends; all start at once."""
    workload = only("StatefulSet", "plain")
    pod = workload["spec"]["template"]["spec"]
    worker = settings_of(environment(pod), tmp_path / "s").settings.worker
    args = container(pod)["args"]

    assert worker.static_membership
    assert "{host}" == args[args.index("--slot") + 1]
    assert "Parallel" == workload["spec"]["podManagementPolicy"]
    assert workload["spec"]["serviceName"] in {one["metadata"]["name"] for one in every("Service", "plain")}
    assert worker.session_timeout_ms <= worker.transaction_timeout_ms
    assert "replicas" not in workload["spec"]


def test_a_deployment_has_no_names(tmp_path: Path) -> None:
    """Its workers say when they leave; and no pod is added before one is gone: it would have no partition."""
    workload = only("Deployment", "deployment", "worker")
    worker = settings_of(environment(workload["spec"]["template"]["spec"]), tmp_path / "s").settings.worker

    assert not worker.static_membership
    assert {"maxSurge": 0, "maxUnavailable": 1} == workload["spec"]["strategy"]["rollingUpdate"]
    assert 3 == workload["spec"]["replicas"]
    assert [] == every("ScaledObject", "deployment")


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_scaling_looks_at_the_lag_of_the_group(name: str, tmp_path: Path) -> None:
    """The trigger names the group and topic of the workers; there are never more of them than partitions."""
    spec = only("ScaledObject", name)["spec"]
    workload = only("StatefulSet", name)
    pod = workload["spec"]["template"]["spec"]
    settings = settings_of(environment(pod), tmp_path / "s").settings
    domain = container(pod)["args"][1]
    kafka, cpu = spec["triggers"]

    assert group_of(settings, domain) == kafka["metadata"]["consumerGroup"]
    assert kafka["metadata"]["topic"] == next(t.name for t in domains()[domain] if t.direction == "input")
    assert settings.kafka.bootstrap == kafka["metadata"]["bootstrapServers"]
    assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"] <= settings.kafka.partitions
    assert (workload["kind"], workload["metadata"]["name"]) == (
        spec["scaleTargetRef"]["kind"],
        spec["scaleTargetRef"]["name"],
    )
    assert "cpu" == cpu["type"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert 1000 * behavior["scaleUp"]["stabilizationWindowSeconds"] > settings.worker.session_timeout_ms
    assert [{"type": "Pods", "value": 1, "periodSeconds": 120}] == behavior["scaleDown"]["policies"]


def test_scaling_authenticates_as_the_workers_do() -> None:
    """SCRAM and TLS reach KEDA from the same Secrets, and the user's name from the container."""
    kafka = only("ScaledObject", "everything")["spec"]["triggers"][0]
    authentication = only("TriggerAuthentication", "everything")
    pod = only("StatefulSet", "everything")["spec"]["template"]["spec"]
    [name] = authentication["spec"]["env"]
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}

    assert ("scram_sha512", "enable") == (kafka["metadata"]["sasl"], kafka["metadata"]["tls"])
    assert authentication["metadata"]["name"] == kafka["authenticationRef"]["name"]
    assert "headrace" == environment(pod)[name["name"]]
    assert container(pod)["name"] == name["containerName"]
    assert {"password", "ca"} == {one["parameter"] for one in authentication["spec"]["secretTargetRef"]}
    assert {one["name"] for one in authentication["spec"]["secretTargetRef"]} <= secrets
    assert [] == every("TriggerAuthentication", "plain")


def test_disruptions_take_one_worker_at_a_time() -> None:
    """A drain moves one; those that are not ready do not hold it up."""
    budget = only("PodDisruptionBudget", "plain")["spec"]

    assert (1, "AlwaysAllow") == (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"])


def test_gpu_workers_go_where_gpus_are(tmp_path: Path) -> None:
    """They ask for one, tolerate what keeps others away, run the image with CUDA, and refuse to run without."""
    pod = only("StatefulSet", "everything")["spec"]["template"]["spec"]
    plain = only("StatefulSet", "plain")["spec"]["template"]["spec"]

    assert 1 == container(pod)["resources"]["limits"]["nvidia.com/gpu"]
    assert {"nvidia.com/gpu.present": "true", "kubernetes.io/arch": "amd64"} == pod["nodeSelector"]
    assert {"nvidia.com/gpu", "dedicated"} == {one["key"] for one in pod["tolerations"]}
    assert container(pod)["image"].endswith("-gpu")
    assert settings_of(environment(pod), tmp_path / "a").settings.model.require_gpu
    assert "/var/cache/headrace" == settings_of(environment(pod), tmp_path / "a").settings.model.cache_dir
    assert not settings_of(environment(plain), tmp_path / "b").settings.model.require_gpu
    assert "nvidia.com/gpu" not in json.dumps(plain)


def test_there_is_one_monitor() -> None:
    """Never two, not even while it is replaced."""
    spec = only("Deployment", "plain", "monitor")["spec"]

    assert (1, {"type": "Recreate"}) == (spec["replicas"], spec["strategy"])


def test_the_network_is_closed() -> None:
    """In: scrapes. Out: names and Kafka, and ClickHouse for the store alone."""

    def ports(rules: list[Manifest]) -> set[int]:
        return {port["port"] for rule in rules for port in rule["ports"]}

    both, store = (one["spec"] for one in every("NetworkPolicy", "everything"))
    closed = only("NetworkPolicy", "deployment")["spec"]

    assert {"Ingress", "Egress"} == set(both["policyTypes"])
    assert {9400} == ports(both["ingress"])
    assert all(rule["from"] for rule in both["ingress"])
    assert {53, 9093, 4318} == ports(both["egress"])
    assert {8443} == ports(store["egress"])
    assert "store" == store["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
    assert [] == closed["ingress"]


def test_image_and_chart_have_the_projects_version() -> None:
    """A release of one is a release of all."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container(one["spec"]["template"]["spec"])["image"] for _, one in workloads("plain")}

    assert (version, version) == (chart["version"], chart["appVersion"])
    assert {f"headrace:{version}"} == images
