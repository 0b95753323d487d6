"""Nothing on the way cuts off a request that the chart says may take so long."""

import pytest
from tests.helm.chart import CHART, container, deployments, names, of_kind, render, render_chart


def seconds(args, flag):
    (found,) = [each.partition("=")[2] for each in args if each.startswith(f"--{flag}=")]
    return int(found)


@pytest.mark.parametrize("name", names())
def test_the_grace_period_covers_prestop_and_drain(name):
    for router in deployments(render(name), "router"):
        spec = router["spec"]["template"]["spec"]
        main = container(router["spec"]["template"], "router")
        command = main["lifecycle"]["preStop"]["exec"]["command"]
        assert command[0] == "sleep"
        drain = seconds(main["args"], "drain-timeout-s")
        assert spec["terminationGracePeriodSeconds"] > drain + int(command[1])


@pytest.mark.parametrize("name", names())
def test_an_engines_grace_period_covers_the_longest_request(name):
    objects = render(name)
    drains = [
        seconds(container(each["spec"]["template"], "router")["args"], "drain-timeout-s")
        for each in deployments(objects, "router")
    ]
    for engine in deployments(objects, "engine"):
        main = container(engine["spec"]["template"], "engine")
        command = main["lifecycle"]["preStop"]["exec"]["command"]
        at_most = seconds(command, "at-most-s")
        grace = engine["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert at_most >= max(drains)
        assert grace > at_most


def test_ingress_lets_long_uploads_and_streams_through():
    (ingress,) = of_kind(render("ingress"), "Ingress")
    prefix = "nginx.ingress.kubernetes.io/"
    notes = ingress["metadata"]["annotations"]
    assert notes[prefix + "proxy-body-size"] == "0"
    assert notes[prefix + "proxy-request-buffering"] == "off"
    assert notes[prefix + "proxy-buffering"] == "off"
    assert notes[prefix + "proxy-read-timeout"] == "3600"
    assert notes[prefix + "proxy-send-timeout"] == "3600"
    # The router repeats what may be repeated; twice would be once too often.
    assert notes[prefix + "proxy-next-upstream"] == "off"


def test_the_http_route_waits_as_long_and_its_gateway_takes_any_size():
    objects = render("everything")
    (route,) = of_kind(objects, "HTTPRoute")
    assert [each["timeouts"] for each in route["spec"]["rules"]] == [
        {"request": "1200s", "backendRequest": "1200s"}
    ]
    (policy,) = of_kind(objects, "ClientSettingsPolicy")
    assert policy["spec"]["body"]["maxSize"] == "0"
    assert policy["spec"]["targetRef"]["name"] == route["metadata"]["name"]


@pytest.mark.parametrize("name", names())
def test_the_spool_fits_its_volume_and_a_pod_is_never_evicted_for_it(name):
    for router in deployments(render(name), "router"):
        template = router["spec"]["template"]
        (spool,) = [each for each in template["spec"]["volumes"] if each["name"] == "spool"]
        limit = spool["emptyDir"]["sizeLimit"]
        assert limit.endswith("Mi")
        args = container(template, "router")["args"]
        assert seconds(args, "spool-max-mb") < int(limit.removesuffix("Mi"))
        assert seconds(args, "max-upload-mb") <= seconds(args, "spool-max-mb")


@pytest.mark.parametrize("name", names())
def test_engines_have_half_an_hour_to_load_and_the_rollout_waits_for_them(name):
    for engine in deployments(render(name), "engine"):
        probe = container(engine["spec"]["template"], "engine")["startupProbe"]
        loading = probe["periodSeconds"] * probe["failureThreshold"]
        assert loading >= 1800
        assert engine["spec"]["progressDeadlineSeconds"] > loading


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ((), ["Resource"]),
        (("router.hpa.audioSeconds.mode=always",), ["Pods", "Resource"]),
        (("router.hpa.audioSeconds.mode=never",), ["Resource"]),
    ],
)
def test_the_hpa_falls_back_to_cpu_where_there_are_no_custom_metrics(settings, kinds):
    (hpa,) = of_kind(
        render("defaults", "router.hpa.enabled=true", *settings), "HorizontalPodAutoscaler"
    )
    assert [each["type"] for each in hpa["spec"]["metrics"]] == kinds
    assert hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] > 0


def test_the_hpa_uses_audio_seconds_where_the_cluster_has_them():
    objects = render_chart(
        CHART,
        "defaults",
        "router.hpa.enabled=true",
        extra=("--api-versions", "custom.metrics.k8s.io/v1beta1"),
    )
    (hpa,) = of_kind(objects, "HorizontalPodAutoscaler")
    first = hpa["spec"]["metrics"][0]
    assert first["pods"]["metric"]["name"] == "vllm_router_audio_seconds_in_flight"
