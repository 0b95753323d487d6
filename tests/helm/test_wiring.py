"""What refers to something refers to something that is there."""

import pytest
import yaml
from tests.helm.chart import (
    container,
    deployments,
    matches,
    names,
    of_kind,
    only,
    pods,
    render,
)

# Made by others, on purpose, in the value files of ci/.
FOREIGN = {"whisper-keys", "whisper-tls", "hub", "ca", "shared", "models", "weights", "registry"}


@pytest.mark.parametrize("name", names())
def test_every_selector_takes_exactly_its_own_pods(name):
    objects = render(name)
    templates = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in of_kind(objects, "Deployment")
    }
    for each in of_kind(objects, "Deployment"):
        selector = each["spec"]["selector"]["matchLabels"]
        taken = [who for who, labels in templates.items() if matches(selector, labels)]
        assert taken == [each["metadata"]["name"]]
        for spread in each["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert spread["labelSelector"]["matchLabels"] == selector

    routers = {each["metadata"]["name"] for each in deployments(objects, "router")}
    engines = {each["metadata"]["name"] for each in deployments(objects, "engine")}
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        for each in of_kind(objects, kind):
            spec = each["spec"]
            selector = spec.get("podSelector") or spec["selector"]
            labels = selector.get("matchLabels", selector)
            taken = {who for who, held in templates.items() if matches(labels, held)}
            component = each["metadata"]["labels"]["app.kubernetes.io/component"]
            if kind == "PodDisruptionBudget":
                assert taken == {each["metadata"]["name"]}
            else:
                assert taken == (routers if component == "router" else engines), kind
    for each in of_kind(objects, "ServiceMonitor"):
        services = [
            service["metadata"]["name"]
            for service in of_kind(objects, "Service")
            if matches(each["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
        ]
        assert services == [only(objects, "Service")["metadata"]["name"]]


@pytest.mark.parametrize("name", names())
def test_every_port_that_is_named_exists(name):
    objects = render(name)
    for _, pod in pods(objects):
        for each in pod["spec"]["containers"]:
            ports = {port["name"] for port in each.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if "httpGet" in each.get(probe, {}):
                    assert each[probe]["httpGet"]["port"] in ports
    for service in of_kind(objects, "Service"):
        component = service["metadata"]["labels"]["app.kubernetes.io/component"]
        for deployment in deployments(objects, component):
            main = deployment["spec"]["template"]["spec"]["containers"][0]
            named = {port["name"] for port in main["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    router = only(objects, "Service")
    numbers = {port["port"] for port in router["spec"]["ports"]}
    for route in of_kind(objects, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                assert backend["name"] == router["metadata"]["name"]
                assert backend["port"] in numbers
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["backend"]["service"] == {
                    "name": router["metadata"]["name"],
                    "port": {"name": router["spec"]["ports"][0]["name"]},
                }


@pytest.mark.parametrize("name", names())
def test_every_volume_secret_and_account_exists(name):
    objects = render(name)
    there = {(each["kind"], each["metadata"]["name"]): each for each in objects}

    def is_there(kind, called, key=None):
        if called in FOREIGN:
            return True
        found = there.get((kind, called))
        return found is not None and (key is None or key in found["data"])

    for who, pod in pods(objects):
        spec = pod["spec"]
        if "serviceAccountName" in spec:
            assert is_there("ServiceAccount", spec["serviceAccountName"])
        volumes = {}
        for volume in spec.get("volumes", []):
            volumes[volume["name"]] = volume
            if "configMap" in volume:
                assert is_there("ConfigMap", volume["configMap"]["name"]), (who, volume)
            if "secret" in volume:
                for item in volume["secret"]["items"]:
                    assert is_there("Secret", volume["secret"]["secretName"], item["key"]), who
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert is_there("PersistentVolumeClaim", claim), (who, claim)
        mounted = set()
        for each in [*spec["containers"], *spec.get("initContainers", [])]:
            for mount in each.get("volumeMounts", []):
                assert mount["name"] in volumes
                mounted.add(mount["name"])
            for variable in each.get("env", []):
                if "valueFrom" in variable:
                    secret = variable["valueFrom"]["secretKeyRef"]
                    assert is_there("Secret", secret["name"], secret["key"]), (who, variable)
        assert mounted == set(volumes), who


@pytest.mark.parametrize("name", names())
def test_scalers_scale_deployments_that_leave_their_number_open(name):
    objects = render(name)
    by_name = {each["metadata"]["name"]: each for each in of_kind(objects, "Deployment")}
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for each in of_kind(objects, kind)
    }
    assert scaled <= set(by_name)
    for who, each in by_name.items():
        assert ("replicas" in each["spec"]) == (who not in scaled)


def test_router_and_engines_share_the_engines_key():
    objects = render("everything")
    (router,) = deployments(objects, "router")
    given = {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in container(router["spec"]["template"], "router")["env"]
        if "valueFrom" in each
    }
    for engine in deployments(objects, "engine"):
        (asked,) = [
            each["valueFrom"]["secretKeyRef"]
            for each in container(engine["spec"]["template"], "engine")["env"]
            if each["name"] == "VLLM_API_KEY"
        ]
        assert asked == given["VLLM_ROUTER_ENGINE_API_KEY"]


def test_the_file_of_engines_is_mounted_as_a_folder():
    objects = render("ingress")
    (router,) = deployments(objects, "router")
    mounts = container(router["spec"]["template"], "router")["volumeMounts"]
    (mount,) = [each for each in mounts if each["name"] == "engines"]
    assert "subPath" not in mount
    args = container(router["spec"]["template"], "router")["args"]
    assert f"--discovery-file={mount['mountPath']}/engines.yaml" in args
    (listed,) = [each for each in of_kind(objects, "ConfigMap") if "engines.yaml" in each["data"]]
    assert [each["url"] for each in yaml.safe_load(listed["data"]["engines.yaml"])["engines"]] == [
        "http://whisper-0.speech:8000",
        "http://whisper-1.speech:8000",
    ]


def test_discovery_selects_the_charts_own_engines():
    objects = render("two-models")
    (router,) = deployments(objects, "router")
    args = container(router["spec"]["template"], "router")["args"]
    (selector,) = [each for each in args if each.startswith("--k8s-label-selector=")]
    wanted = dict(each.split("=") for each in selector.partition("=")[2].split(","))
    engines = deployments(objects, "engine")
    assert len(engines) == 2
    for each in engines:
        assert matches(wanted, each["spec"]["template"]["metadata"]["labels"])
    assert not matches(wanted, router["spec"]["template"]["metadata"]["labels"])


def test_dns_discovery_asks_for_the_headless_service():
    objects = render("nodeport")
    service = only(objects, "Service", "engine")
    assert service["spec"]["clusterIP"] == "None"
    (router,) = deployments(objects, "router")
    args = container(router["spec"]["template"], "router")["args"]
    name = service["metadata"]["name"]
    assert f"--dns-name=_http._tcp.{name}.ns.svc.cluster.local" in args
    assert service["spec"]["ports"][0]["name"] == "http"


def test_keda_asks_for_the_groups_own_model_and_pods():
    objects = render("everything")
    for each in of_kind(objects, "ScaledObject"):
        target = each["spec"]["scaleTargetRef"]["name"]
        (engine,) = [
            one for one in deployments(objects, "engine") if one["metadata"]["name"] == target
        ]
        args = container(engine["spec"]["template"], "engine")["args"]
        (model,) = [one.partition("=")[2] for one in args if one.startswith("--served-model-name=")]
        queue, in_flight = (one["metadata"]["query"] for one in each["spec"]["triggers"])
        assert f'model="{model}"' in queue
        assert f'engine=~"ns/{target}-' in in_flight
