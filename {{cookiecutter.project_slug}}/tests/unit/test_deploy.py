"""What deploy/ says agrees with the image, the settings, the verbs and the addresses of the API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from starlette.routing import Route

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.core.project import DATA_VARIABLE
from {{cookiecutter.package_name}}.core.settings import ENV_PREFIX, load_settings
from {{cookiecutter.package_name}}.serving import api

from tests.conftest import ROOT
from tests.workers import worker

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("[!k]*.yml"))
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN_VARIABLES = ("SIGNING_KEY", "REDIS_ADDRESS")


@cache
def resources() -> list[dict[str, Any]]:
    """All resources of the manifests."""
    texts = (path.read_text(encoding="utf-8") for path in MANIFESTS)
    return [resource for text in texts for resource in yaml.safe_load_all(text)]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    """Resources of a kind, by name."""
    return {
        resource["metadata"]["name"]: resource
        for resource in resources()
        if resource["kind"] == kind
    }


def pods() -> Iterator[dict[str, Any]]:
    """Specifications of all pods."""
    for workload in of_kind("StatefulSet").values():
        yield workload["spec"]["template"]["spec"]
    for job in of_kind("CronJob").values():
        yield job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def containers() -> list[dict[str, Any]]:
    """All containers of all pods."""
    return [
        container
        for pod in pods()
        for container in (*pod.get("initContainers", ()), *pod["containers"])
    ]


def server() -> dict[str, Any]:
    """The server's container."""
    spec = of_kind("StatefulSet")["server"]["spec"]["template"]["spec"]
    container: dict[str, Any] = spec["containers"][0]
    return container


def addresses(folder: Path) -> set[str]:
    """Paths that the API answers."""
    return {route.path for route in worker(folder).routes if isinstance(route, Route)}


def containerfile() -> list[str]:
    """Lines of the image's definition."""
    return (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()


def parsed(arguments: list[str]) -> Mapping[str, Any]:
    """Parameters of a verb, as the command line reads them."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, click.Group | typer.core.TyperGroup)
    verb, *rest = arguments
    command = group.commands[verb]
    parameters: Mapping[str, Any] = command.make_context(verb, list(rest)).params
    return parameters


def test_images_are_pinned() -> None:
    services = [
        re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"]) for service in SERVICES.values()
    ]
    for image in (*services, *(container["image"] for container in containers())):
        assert PINNED.fullmatch(image), image


def test_nothing_runs_as_root_or_writes_to_its_image() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
    for container in containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        if "build" in service:
            path = ROOT / service["build"]["dockerfile"]
            assert "USER 10001" in path.read_text(encoding="utf-8").splitlines()
        else:
            assert service["user"].split(":")[0] not in {"", "0", "root"}


def test_everything_is_limited() -> None:
    for container in containers():
        for kind in ("requests", "limits"):
            assert set(container["resources"][kind]) == {"cpu", "memory"}, container["name"]
    for name, service in SERVICES.items():
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service), name


def test_what_is_published_stays_on_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_the_api_has_what_probes_ask_for(probe: str, tmp_path: Path) -> None:
    asked = server()[probe]["httpGet"]
    assert asked["path"] in addresses(tmp_path)
    assert asked["port"] == "http"


def test_ports_are_those_of_the_server(tmp_path: Path) -> None:
    # Given
    (exposed,) = (line.split()[1] for line in containerfile() if line.startswith("EXPOSE"))
    (port,) = server()["ports"]
    (of_service,) = of_kind("Service")["server"]["spec"]["ports"]
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    (scraped,) = prometheus["scrape_configs"]
    listens = [parsed(words)["port"] for words in (server()["args"], SERVICES["server"]["command"])]
    # Then
    assert listens == [int(exposed)] * 2
    assert (port["name"], port["containerPort"]) == ("http", int(exposed))
    assert (of_service["port"], of_service["targetPort"]) == (int(exposed), "http")
    assert SERVICES["server"]["ports"] == [f"127.0.0.1:{exposed}:{exposed}"]
    assert scraped["static_configs"] == [{"targets": [f"server:{exposed}"]}]
    assert scraped["metrics_path"] in addresses(tmp_path)


def test_commands_are_verbs_with_their_options() -> None:
    (started,) = (line for line in containerfile() if line.startswith("CMD"))
    commands = [json.loads(started.removeprefix("CMD"))]
    commands += [SERVICES[name]["command"] for name in ("server", "loop")]
    commands += [item["args"] for item in containers() if item["image"].endswith(":0.0.0")]
    for arguments in commands:
        assert parsed(arguments)["env"] == "prod"


def test_variables_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = of_kind("ConfigMap")["settings"]["data"]
    for variables in (data, SERVICES["server"]["environment"]):
        with monkeypatch.context() as patch:
            patch.setenv(DATA_VARIABLE, str(tmp_path))
            for name, value in variables.items():
                assert name.startswith(ENV_PREFIX) or name in OWN_VARIABLES
                patch.setenv(name, value)
            settings = load_settings("prod", ROOT)
        assert settings.online.redis in {item["name"] for item in server()["env"]}
        assert settings.mlflow.tracking_uri.startswith("http")


def test_selectors_find_the_pods_they_are_for() -> None:
    for name in ("server", "redis"):
        workload = of_kind("StatefulSet")[name]["spec"]
        labels = workload["template"]["metadata"]["labels"]
        assert workload["selector"]["matchLabels"] == labels
        assert of_kind("Service")[name]["spec"]["selector"] == labels
        assert workload["serviceName"] == name
    labels = of_kind("StatefulSet")["server"]["spec"]["template"]["metadata"]["labels"]
    assert of_kind("PodDisruptionBudget")["server"]["spec"]["selector"]["matchLabels"] == labels
    scaled = of_kind("HorizontalPodAutoscaler")["server"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("StatefulSet", "server")


def test_volumes_that_are_mounted_are_there() -> None:
    for workload in of_kind("StatefulSet").values():
        pod = workload["spec"]["template"]["spec"]
        claimed = {item["metadata"]["name"] for item in workload["spec"]["volumeClaimTemplates"]}
        there = claimed | {volume["name"] for volume in pod.get("volumes", ())}
        mounts = (item for container in pod["containers"] for item in container["volumeMounts"])
        mounted = {item["name"] for item in mounts}
        assert mounted == there
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service["volumes"]
        if not volume.startswith(".")
    }
    assert used == set(COMPOSE["volumes"])


def test_alerts_ask_for_what_the_server_measures() -> None:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    asked = {name for rule in group["rules"] for name in re.findall(r"serving_\w+", rule["expr"])}
    measured = set()
    for metric in (api.REQUESTS, api.ROWS, api.STALE, api.SECONDS):
        (family,) = metric.describe()
        measured |= {f"{family.name}_total", f"{family.name}_bucket"}
    assert asked
    assert asked <= measured


def test_a_rollout_waits_for_servers_that_are_there() -> None:
    text = (ROOT / "docs" / "online.md").read_text(encoding="utf-8")
    named = set(re.findall(r"statefulset/([\w-]+)", text))
    assert named == {"server"}
    assert named <= set(of_kind("StatefulSet"))
