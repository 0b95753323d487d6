"""Pods fit the Pod Security Standard "restricted"; keys and tokens are only where they are needed.

The rules are those of kubernetes.io/docs/concepts/security/pod-security-standards, as far as they
concern Linux pods.
"""

import pytest
import yaml
from tests.helm.chart import container, deployments, names, of_kind, only, pods, render

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECRETS = ("not-a-real-key", "bm90LWEtcmVhbC1rZXk")


@pytest.mark.parametrize("name", names())
def test_pods_are_restricted(name):
    for who, pod in pods(render(name)):
        spec = pod["spec"]
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            assert not spec.get(field), who
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= VOLUMES
        for each in [*spec["containers"], *spec.get("initContainers", [])]:
            context = each["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context.get("privileged")
            for port in each.get("ports", []):
                assert "hostPort" not in port


@pytest.mark.parametrize("name", names())
def test_our_containers_write_only_to_bounded_volumes(name):
    for who, pod in pods(render(name)):
        for each in pod["spec"]["containers"]:
            if each["name"] in ("router", "engine", "ready"):
                assert each["securityContext"]["readOnlyRootFilesystem"] is True
        for volume in pod["spec"].get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], (who, volume)


@pytest.mark.parametrize("name", names())
def test_the_token_is_mounted_for_kubernetes_discovery_only(name):
    objects = render(name)
    for who, pod in pods(objects):
        args = pod["spec"]["containers"][0].get("args", [])
        needs_it = "--service-discovery=k8s" in args
        assert pod["spec"]["automountServiceAccountToken"] is needs_it, who
        assert len(of_kind(objects, "Role")) == (
            "--service-discovery=k8s"
            in container(deployments(objects, "router")[0]["spec"]["template"], "router")["args"]
        )
    assert only(objects, "ServiceAccount")["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("name", "group", "resource"),
    [("everything", "", "pods"), ("k8s", "discovery.k8s.io", "endpointslices")],
)
def test_the_role_may_read_what_discovery_watches_and_nothing_else(name, group, resource):
    objects = render(name)
    role, binding = only(objects, "Role"), only(objects, "RoleBinding")
    assert role["rules"] == [
        {"apiGroups": [group], "resources": [resource], "verbs": ["get", "list", "watch"]}
    ]
    account = only(objects, "ServiceAccount")["metadata"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["metadata"]["namespace"] == role["metadata"]["namespace"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    args = container(deployments(objects, "router")[0]["spec"]["template"], "router")["args"]
    asked = [each.partition("=")[2] for each in args if each.startswith("--k8s-namespace=")]
    assert role["metadata"]["namespace"] == (asked or ["ns"])[0]
    assert not of_kind(objects, "ClusterRole")


@pytest.mark.parametrize("name", names())
def test_keys_stand_in_secrets_only(name):
    for each in render(name):
        if each["kind"] != "Secret":
            text = yaml.safe_dump(each)
            assert not any(secret in text for secret in SECRETS), each["kind"]


def test_keys_reach_the_router_as_a_file_and_as_references():
    objects = render("everything")
    pod = deployments(objects, "router")[0]["spec"]["template"]
    router = container(pod, "router")
    assert "--api-key-file=/etc/vllm-router/keys/api-keys" in router["args"]
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "keys"]
    assert volume["secret"]["items"] == [{"key": "api-keys", "path": "api-keys"}]
    assert volume["secret"]["defaultMode"] == 0o440
    names_ = {each["name"] for each in router["env"] if "valueFrom" in each}
    assert names_ == {"VLLM_ROUTER_ENGINE_API_KEY", "VLLM_ROUTER_ADMIN_KEY"}


@pytest.mark.parametrize("name", names())
def test_services_of_other_names_cannot_become_settings(name):
    # A Service called vllm-router sets VLLM_ROUTER_PORT=tcp://... in every pod that allows it.
    for who, pod in pods(render(name)):
        assert pod["spec"]["enableServiceLinks"] is False, who


def test_engines_let_in_routers_only():
    objects = render("two-models")
    (policy,) = [
        each
        for each in of_kind(objects, "NetworkPolicy")
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == "engine"
    ]
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    labels = deployments(objects, "router")[0]["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]


def test_a_restricted_router_still_reaches_names_engines_and_the_api_server():
    objects = render("everything")
    policy = only(objects, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    open_ports = {
        port["port"]
        for rule in policy["egress"]
        for port in rule.get("ports", [])
        if "to" not in rule
    }
    assert {53, 443, 6443, 4318} <= open_ports
    reached = [
        peer["podSelector"]["matchLabels"]["vllm-whisper-router/engine-group"]
        for rule in policy["egress"]
        for peer in rule.get("to", [])
        if "podSelector" in peer
    ]
    assert reached == ["large", "small"]
