"""Every rendered object is one that Kubernetes, or the kind's own controller, would take.

Kubernetes' kinds are validated against its API schemas, strictly. The kinds of others (Prometheus
operator, KEDA, Gateway API, NGINX Gateway Fabric) are validated against schemas of our own in
crds/, written after their documentation: they hold the fields the chart uses and refuse all others.
"""

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
from tests.helm.chart import CHART, NEWEST, OLDEST, VALUE_FILES, helm, names, of_kind, render

CRDS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "crds").glob("*.json"))
}


def test_there_are_examples_of_all_that_matters():
    assert set(names()) == {
        "defaults",
        "static",
        "k8s",
        "two-models",
        "nodeport",
        "ingress",
        "httproute",
        "everything",
    }


def test_helm_lint_is_content():
    for path in VALUE_FILES:
        done = helm("lint", "--strict", str(CHART), "--values", str(path))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kube_version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", names())
def test_every_object_fits_its_schema(name, kube_version):
    objects = render(name, kube_version=kube_version)
    assert objects
    for each in objects:
        if each["kind"] in CRDS:
            jsonschema.validate(each, CRDS[each["kind"]])
        else:
            kubernetes_validate.validate(each, kube_version.rpartition(".")[0], strict=True)


@pytest.mark.parametrize("name", names())
def test_no_two_objects_share_a_name(name):
    objects = render(name)
    keys = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", names())
def test_every_object_says_its_namespace(name):
    for each in render(name):
        assert each["metadata"]["namespace"] in ("ns", "speech"), each["metadata"]


def test_everything_on_renders_every_kind():
    kinds = {each["kind"] for each in render("everything")}
    assert kinds == {
        "ClientSettingsPolicy",
        "ConfigMap",
        "Deployment",
        "HTTPRoute",
        "HorizontalPodAutoscaler",
        "Ingress",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "Pod",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
        "Role",
        "RoleBinding",
        "ScaledObject",
        "Secret",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    }


def test_every_dashboard_and_every_rule_file_is_shipped():
    objects = render("everything")
    boards = [
        each
        for each in of_kind(objects, "ConfigMap")
        if "grafana_dashboard" in each["metadata"]["labels"]
    ]
    shipped = {name: json.loads(text) for each in boards for name, text in each["data"].items()}
    assert shipped == {
        path.name: json.loads(path.read_text()) for path in CHART.glob("dashboards/*.json")
    }
    (rule,) = of_kind(objects, "PrometheusRule")
    text = "".join(path.read_text() for path in CHART.glob("rules/*.yaml"))
    assert rule["spec"]["groups"]
    for group in rule["spec"]["groups"]:
        assert f"name: {group['name']}" in text


def test_names_stay_within_bounds_whatever_the_release_is_called():
    long = "a-release-with-quite-a-long-name-of-53-characters-xyz"
    done = helm(
        "template", long, str(CHART), "--values", str(CHART / "ci" / "everything-values.yaml")
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        key, _, value = line.strip().partition(": ")
        if key in ("name", "app.kubernetes.io/name", "app.kubernetes.io/instance"):
            assert len(value) <= 63, line
