"""The manifests agree with the program: what they promise to a cluster, the gateway that they configure does."""

import asyncio
import copy
import ipaddress
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from raw_caller import ask
from running import Process, as_process, free_port

from gateway.config import Config, load
from gateway.credentials import kinds
from gateway.metrics import Gauges, Metrics
from gateway.simulator import Simulator

from .manifests import (
    COMPONENTS,
    KUBERNETES,
    VARIANTS,
    Manifest,
    config_path,
    containers,
    documented_secrets,
    gateway_pod,
    lay_out,
    named,
    of_kind,
    operator_problems,
    pods,
    port_of,
    render,
    secrets_for,
    to_simulator,
    variant,
)

MIB = 1024 * 1024
# Without bodies the process stays below this, see `test_it_fits`.
PROCESS_BYTES = 128 * MIB
# What a kubelet allows a pod that does not say (Kubernetes API, PodSpec).
DEFAULT_GRACE_SECONDS = 30
_START = "import sys; sys.argv.pop(); from gateway.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(params=VARIANTS)
def variant_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def documents(variant_name: str, whole: dict[str, list[Manifest]], tmp_path: Path) -> list[Manifest]:
    """The rendered manifests, and the Secrets that docs/deploying.md says to create."""
    if variant_name not in whole:
        overlay, replacements = VARIANTS[variant_name]
        manifests = render(variant(tmp_path / "rendered", overlay, *replacements))
        if not of_kind(manifests, "Secret"):
            manifests += secrets_for(manifests, tmp_path / "rendered")
        whole[variant_name] = manifests
    return copy.deepcopy(whole[variant_name])


@pytest.fixture(scope="module")
def whole() -> dict[str, list[Manifest]]:
    """What was rendered already, by variant."""
    return {}


def written_config(documents: list[Manifest]) -> Manifest:
    """The configuration as it stands in the ConfigMap that the gateway's container mounts."""
    pod, _ = gateway_pod(documents)
    name = next(volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume)
    text = named(documents, "ConfigMap", name)["data"]["gateway.yaml"]
    loaded: Manifest = yaml.safe_load(text)
    return loaded


def load_pod(documents: list[Manifest], root: Path) -> Config:
    """The configuration as the container finds it, its mounts below ``root``."""
    pod, container = gateway_pod(documents)
    lay_out(pod, container, documents, root)
    path = root / config_path(container).lstrip("/")
    text = path.read_text().replace("/etc/gateway/", f"{root}/etc/gateway/")
    (root / "check.yaml").write_text(text)
    return load(root / "check.yaml", kinds(), environ={})


@pytest.mark.parametrize("version", ["1.30.0", ""], ids=["1.30", "newest"])
def test_schemas(documents: list[Manifest], version: str) -> None:
    """Every manifest is one that Kubernetes or the Prometheus Operator knows, field by field."""
    for document in documents:
        if document["apiVersion"].startswith("monitoring.coreos.com/"):
            assert operator_problems(document) == []
        else:
            kubernetes_validate.validate(document, version or kubernetes_validate.latest_version(), strict=True)


def test_configuration_passes_check(documents: list[Manifest], tmp_path: Path) -> None:
    """What the ConfigMap holds is a configuration, with the Secrets that the documents create."""
    assert load_pod(documents, tmp_path).routes


def test_secrets_are_the_ones_the_configuration_names(documents: list[Manifest], tmp_path: Path) -> None:
    """Each file that the configuration names is a key of a mounted Secret, and each key is named."""
    pod, container = gateway_pod(documents)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {
        f"{mount['mountPath']}/{key}"
        for mount in container["volumeMounts"]
        if "secret" in volumes[mount["name"]]
        for key in named(documents, "Secret", volumes[mount["name"]]["secret"]["secretName"])["data"]
    }
    text = yaml.safe_dump(written_config(documents), width=1000)

    assert set(re.findall(r"(/etc/gateway/\w+/[\w.-]+)", text)) == mounted


def test_ports_are_where_it_listens(documents: list[Manifest], variant_name: str) -> None:
    """Container ports are those of `listen` and `admin`; a sidecar's traffic stays on loopback and is no port of the pod."""
    _, container = gateway_pod(documents)
    config = written_config(documents)
    ports = {port["containerPort"] for port in container["ports"]}
    listen, admin = (urlsplit(f"//{config[key]}") for key in ("listen", "admin"))

    assert admin.hostname == "0.0.0.0"
    if variant_name.startswith("sidecar"):
        assert listen.hostname == "127.0.0.1"
        assert ports == {admin.port}
        application = next(one for one in containers(gateway_pod(documents)[0]) if one["name"] == "application")
        assert f"http://{config['listen']}/" in application["env"][0]["value"]
    else:
        assert listen.hostname == "0.0.0.0"
        assert ports == {listen.port, admin.port}


async def run_container(
    documents: list[Manifest], modelarts: Simulator, root: Path
) -> tuple[dict[str, Any], Manifest, Manifest]:
    """The container's mounts with free ports and the simulator as the world; then its configuration, pod and container."""
    pod, container = gateway_pod(documents)
    lay_out(pod, container, documents, root)
    path = (root / config_path(container).lstrip("/")).resolve()
    text = path.read_text().replace("/etc/gateway/", f"{root}/etc/gateway/")
    here = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    config = to_simulator(text, modelarts.urls, modelarts.credentials["domain"], here)
    config["process"]["drain_delay"] = "0s"
    path.write_text(yaml.safe_dump(config))
    return config, pod, container


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def until_ready(process: Process, admin_port: int) -> None:
    async with asyncio.timeout(15):
        while (await ask(admin_port, "GET", "/readyz")).status != 200:
            await asyncio.sleep(0.05)
    assert process.pid


async def test_probes_answer(documents: list[Manifest], modelarts: Simulator, tmp_path: Path) -> None:
    """Started with the container's own arguments, the gateway answers 200 to each of its probes, whatever Host they carry."""
    root = tmp_path / "pod"
    written_admin = port(written_config(documents)["admin"])
    config, _, container = await run_container(documents, modelarts, root)
    path = root / config_path(container).lstrip("/")
    probes = {name: value["httpGet"] for name, value in container.items() if name.endswith("Probe")}
    folder = tmp_path / "process"
    folder.mkdir()

    async with as_process(
        path, folder, {"GATEWAY_CONFIG": str(path)}, program=("-c", _START, *container["args"])
    ) as it:
        await until_ready(it, port(config["admin"]))
        answers = {name: await ask(port(config["admin"]), "GET", get["path"]) for name, get in probes.items()}

    assert "livenessProbe" in probes
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(probes, 200)
    assert {port_of(container, get["port"]) for get in probes.values()} == {written_admin}


async def test_requests_go_through(documents: list[Manifest], modelarts: Simulator, tmp_path: Path) -> None:
    """A request comes back answered; where callers are listed over HTTPS, with a caller's token only."""
    root = tmp_path / "pod"
    config, _, container = await run_container(documents, modelarts, root)
    folder = tmp_path / "process"
    folder.mkdir()
    tls, fields = None, {}
    if "callers" in config:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        fields = {"Authorization": "Bearer the-research"}

    async with as_process(root / config_path(container).lstrip("/"), folder) as process:
        await until_ready(process, port(config["admin"]))
        answered = await ask(port(config["listen"]), "GET", "/maas/v1/models", fields, tls=tls)
        unknown = await ask(port(config["listen"]), "GET", "/maas/v1/models", tls=tls)

    assert answered.status == 200, answered.body
    assert unknown.status == (401 if fields else 200)


async def test_changes_reach_it(modelarts: Simulator, tmp_path: Path) -> None:
    """A changed ConfigMap and a changed Secret are taken by the running gateway, twice."""
    documents = render(KUBERNETES / "overlays/service")
    documents += secrets_for(documents, tmp_path)
    root = tmp_path / "pod"
    config, pod, container = await run_container(documents, modelarts, root)
    folder = tmp_path / "process"
    folder.mkdir()
    path = root / config_path(container).lstrip("/")

    async with as_process(path, folder) as process:
        await until_ready(process, port(config["admin"]))
        for number in (1, 2):
            modelarts.accept(api_key=f"changed-{number}")
            (tmp_path / "maas-key").write_text(f"changed-{number}\n")
            changed = documented_secrets("modelarts", {"maas-key": f"changed-{number}\n"}, tmp_path)
            config["routes"][1]["path"] = f"/renamed-{number}"
            data = {"data": {"gateway.yaml": yaml.safe_dump(config)}}
            config_map = {**named(documents, "ConfigMap", "modelarts-gateway"), **data}
            lay_out(pod, container, [config_map, *changed], root)
            await until_answer(port(config["listen"]), f"/renamed-{number}/v1/models")


async def until_answer(listen_port: int, path: str) -> None:
    async with asyncio.timeout(20):
        while (await ask(listen_port, "GET", path)).status != 200:
            await asyncio.sleep(0.2)


def test_it_may_finish(documents: list[Manifest], variant_name: str, tmp_path: Path) -> None:
    """The grace period is longer than drain_delay and drain together, and readiness fails before listening stops."""
    pod, container = gateway_pod(documents)
    process = load_pod(documents, tmp_path).process
    before_seconds = 0
    if "lifecycle" in container:
        before_seconds = int(container["lifecycle"]["preStop"]["exec"]["command"][1])

    assert (
        pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        > before_seconds + process.drain_delay_seconds + process.drain_seconds
    )
    if not variant_name.startswith("sidecar"):
        probe = container["readinessProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] < process.drain_delay_seconds


def test_it_fits(documents: list[Manifest], tmp_path: Path) -> None:
    """The memory limit leaves room for the process and for all bodies that it may buffer."""
    _, container = gateway_pod(documents)
    limit = container["resources"]["limits"]["memory"]
    body_memory = load_pod(documents, tmp_path).process.body_memory_bytes
    assert body_memory is not None

    assert limit.endswith("Mi")
    assert int(limit.removesuffix("Mi")) * MIB >= body_memory + PROCESS_BYTES


def test_restricted(documents: list[Manifest]) -> None:
    """Every pod is one that Pod Security's level `restricted` takes (Kubernetes, "Pod Security Standards"), and more."""
    for name, _, pod in pods(documents):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert pod["automountServiceAccountToken"] is False, name
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "secret", "emptyDir", "projected"}, name
        for container in containers(pod):
            context = {**pod["securityContext"], **container["securityContext"]}
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] == 10001
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in context
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_labels_select(documents: list[Manifest]) -> None:
    """Services, budgets, policies and monitors select the pods that they are meant for, and name ports that these have."""
    labels = {name: found for name, found, _ in pods(documents)}
    expected = {"modelarts-gateway-sidecar": "application"}

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, found in labels.items() if selector.items() <= found.items()}

    for document in documents:
        name = expected.get(document["metadata"]["name"], document["metadata"]["name"])
        if document["kind"] == "Service":
            assert selected(document["spec"]["selector"]) == {name}
            _, container = next((one, containers(pod)[0]) for one, _, pod in pods(documents) if one == name)
            assert all(port_of(container, port["targetPort"]) for port in document["spec"]["ports"])
        elif document["kind"] == "PodDisruptionBudget":
            assert selected(document["spec"]["selector"]["matchLabels"]) == {name}
        elif document["kind"] == "NetworkPolicy":
            assert selected(document["spec"]["podSelector"]["matchLabels"]) == {name}
        elif document["kind"] == "HorizontalPodAutoscaler":
            assert document["spec"]["scaleTargetRef"]["name"] in labels
            assert document["spec"]["minReplicas"] >= 2
        elif document["kind"] == "Deployment":
            template = document["spec"]["template"]["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"].items() <= template.items()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param("interval", "15", "does not match", id="no unit"),
        pytest.param("interal", "15s", "'interal' was unexpected", id="no such field"),
        pytest.param("port", 8081, "is not of type 'string'", id="a number for a name"),
        pytest.param("relabelings", [{"action": "copy"}], "is not one of", id="no such action"),
    ],
)
def test_operator_schema_bites(path: str, value: object, said: str, tmp_path: Path) -> None:
    """A monitor that is wrong is found by the Prometheus Operator's schema."""
    monitor = of_kind(render(variant(tmp_path, "service", COMPONENTS)), "PodMonitor")[0]
    monitor["spec"]["podMetricsEndpoints"][0][path] = value

    (problem,) = operator_problems(monitor)

    assert said in problem


@pytest.mark.parametrize("name", ["modelarts-gateway", "modelarts-gateway-sidecar"])
def test_monitors(name: str, tmp_path: Path) -> None:
    """Each PodMonitor selects pods that exist, by a port that they have, under the job that the alert rules expect."""
    overlay = "sidecar" if name.endswith("sidecar") else "service"
    monitor = named(
        render(variant(tmp_path, "service", COMPONENTS)),
        "PodMonitor",
        name,
    )
    documents = render(KUBERNETES / "overlays" / overlay)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    _, container = gateway_pod(documents)
    labels = next(
        labels for _, labels, pod in pods(documents) if any(one.get("args") == ["serve"] for one in containers(pod))
    )

    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert port_of(container, endpoint["port"]) == port(written_config(documents)["admin"])
    assert endpoint["path"] == "/metrics"
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "modelarts-gateway"}]


def test_scaling_metric_exists(tmp_path: Path) -> None:
    """The pod metric that replicas can be scaled by is one that the gateway exports, at 60 % of process.in_flight."""
    documents = render(variant(tmp_path, "service", COMPONENTS))
    metrics = named(documents, "HorizontalPodAutoscaler", "modelarts-gateway")["spec"]["metrics"]
    (pod_metric,) = (metric["pods"] for metric in metrics if metric["type"] == "Pods")
    text, _ = Metrics("0", ["poetry"], gauges=Gauges).text()
    in_flight = load_pod(documents + secrets_for(documents, tmp_path), tmp_path / "pod").process.in_flight
    assert in_flight is not None

    assert f"\n{pod_metric['metric']['name']}{{".encode() in text
    assert int(pod_metric["target"]["averageValue"]) == 0.6 * in_flight


def lets_out(policy: Manifest, address: str, number: int, protocol: str = "TCP") -> bool:
    """Whether a rule of addresses lets a connection out; rules of pods are looked at by themselves."""
    for rule in policy["spec"]["egress"]:
        if {"port": number, "protocol": protocol} not in rule["ports"]:
            continue
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
            inside = [ipaddress.ip_network(one) for one in (block["cidr"], *block.get("except", []))]
            found = ipaddress.ip_address(address)
            if found in inside[0] and not any(found in network for network in inside[1:]):
                return True
    return False


@pytest.mark.parametrize("overlay", ["service", "egress"])
def test_what_gets_out(overlay: str, tmp_path: Path) -> None:
    """Out: DNS, and the ports of IAM and the upstreams on public addresses. Not the cluster, not the metadata service."""
    documents = render(KUBERNETES / "overlays" / overlay)
    policy = named(documents, "NetworkPolicy", "modelarts-gateway")
    config = load_pod(documents + secrets_for(documents, tmp_path), tmp_path / "pod")
    dns = [rule for rule in policy["spec"]["egress"] if any("podSelector" in peer for peer in rule["to"])]

    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert {route.upstream.port for route in config.routes} == {443}
    assert lets_out(policy, "121.36.121.12", 443)
    for address in ("169.254.169.254", "10.0.0.1", "192.168.1.1", "172.31.0.1", "127.0.0.1"):
        assert not lets_out(policy, address, 443)
    assert not lets_out(policy, "121.36.121.12", 80)
    assert [rule["ports"] for rule in dns] == [[{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]]


@pytest.mark.parametrize(
    ("overlay", "peer"),
    [
        pytest.param("service", {"podSelector": {"matchLabels": {"modelarts-gateway/caller": "true"}}}, id="service"),
        pytest.param(
            "egress", {"namespaceSelector": {"matchLabels": {"modelarts-gateway/callers": "true"}}}, id="egress"
        ),
    ],
)
def test_who_gets_in(overlay: str, peer: Manifest) -> None:
    """In: labelled callers to the traffic, Prometheus' namespace to the admin port, nobody else."""
    rules = named(render(KUBERNETES / "overlays" / overlay), "NetworkPolicy", "modelarts-gateway")["spec"]["ingress"]

    assert [(rule["from"], [port["port"] for port in rule["ports"]]) for rule in rules] == [
        ([peer], ["traffic"]),
        ([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}], ["admin"]),
    ]


def test_sidecars_are_the_same() -> None:
    """Both sidecar components bring the same configuration, and the new one starts before the application."""
    old, new = (KUBERNETES / "components" / name for name in ("sidecar-before-1.29", "sidecar"))
    (_, _, pod), *_ = pods(render(KUBERNETES / "overlays/sidecar"))

    assert (old / "gateway.yaml").read_text() == (new / "gateway.yaml").read_text()
    assert [container["restartPolicy"] for container in pod["initContainers"]] == ["Always"]


async def test_the_whole_way(modelarts: Simulator, tmp_path: Path) -> None:
    """In the overlay with the simulator, a request with a token and one with a key come back answered."""
    documents = render(KUBERNETES / "overlays/simulator")
    simulator = named(documents, "Deployment", "modelarts-simulator")["spec"]["template"]["spec"]["containers"][0]
    service = named(documents, "Service", "modelarts-simulator")
    host = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    pod, container = gateway_pod(documents)
    root = tmp_path / "pod"
    lay_out(pod, container, documents, root)
    path = root / config_path(container).lstrip("/")
    text = path.read_text().replace(host, urlsplit(modelarts.urls["iam"]).netloc)
    text = text.replace("/etc/gateway/", f"{root}/etc/gateway/")
    text = re.sub(r"0\.0\.0\.0:\d+", lambda _: f"127.0.0.1:{free_port()}", text).replace(
        "drain_delay: 5s", "drain_delay: 0s"
    )
    path.resolve().write_text(text)
    folder = tmp_path / "process"
    folder.mkdir()

    assert simulator["args"] == ["simulate", "--listen", f"0.0.0.0:{port_of(simulator, 'http')}"]
    async with as_process(path, folder) as process:
        await until_ready(process, process.admin_port)
        flowers = await ask(process.port, "POST", "/flowers", {"Content-Type": "application/json"}, body=b"{}")
        models = await ask(process.port, "GET", "/maas/v1/models")

    assert (flowers.status, models.status) == (200, 200), (flowers.body, models.body)


def test_the_simulator_can_be_reached() -> None:
    """The overlay with the simulator lets the gateway out to it, by the port that it has."""
    policy = named(render(KUBERNETES / "overlays/simulator"), "NetworkPolicy", "modelarts-gateway")
    rule = policy["spec"]["egress"][-1]

    assert rule["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "modelarts-simulator"}}}]
    assert rule["ports"] == [{"port": 9000, "protocol": "TCP"}]
