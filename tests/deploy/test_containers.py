"""The Kubernetes objects and the image file: valid, and true of what the server really answers."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent.socket
import pytest

from intralb_gevent import Options
from intralb_gevent.observe.admin import AdminServer
from intralb_gevent.policy.saturation import SPARE

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PATIENCE = 60.0
LAST_STEPS_SECONDS = 0.25 + 12 + 2
"""Seconds of a shutdown beside its settings: the end of handlers, closing sessions and logs, and atexit functions."""

yaml = pytest.importorskip("yaml")


def objects() -> Iterator[dict[str, Any]]:
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text())


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [each for each in objects() if each["kind"] == kind]
    return found


@pytest.fixture
def container() -> dict[str, Any]:
    (container,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("each", list(objects()), ids=lambda each: f"{each['kind']}/{each['metadata']['name']}")
def test_objects_have_their_schemas(each: dict[str, Any]) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(each, validator.latest_version(), strict=True)


def test_objects_select_the_pods_and_ports_of_the_deployment(container: dict[str, Any]) -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    names = {port["name"] for port in container["ports"]}
    assert of_kind("Service")["spec"]["selector"] == labels
    assert {port["targetPort"] for port in of_kind("Service")["spec"]["ports"]} <= names
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert of_kind(kind)["spec"][key]["matchLabels"] == labels


def test_the_command_answers_the_probes(
    container: dict[str, Any], run_python: Callable[..., Any], ports: Callable[[], int], until: Callable[..., Any]
) -> None:
    program, *command = container["command"]
    assert program == "intralb-gevent"
    chosen = {port["name"]: ports() for port in container["ports"]}
    arguments = container["args"]
    for port in container["ports"]:
        known, own = f"0.0.0.0:{port['containerPort']}", f"127.0.0.1:{chosen[port['name']]}"
        assert known in arguments
        arguments = [own if each == known else each for each in arguments]
    variables = [f"{each['name']}={each['value']}" for each in container["env"]]
    flags = [part for each in variables for part in _as_flag(each)]
    app = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n"
    ready = ("--ready-file", "ready.json")
    process = run_python("-m", "intralb_gevent", *command, *arguments, *flags, *ready, files={"myapp.py": app})
    process.is_ready()
    assert process.port == chosen["http"]

    def answer(probe: str) -> int:
        asked = container[probe]["httpGet"]
        process.port = chosen[asked["port"]]
        return int(process.get(asked["path"]))

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert answer(probe) == 200
    process.signal(signal.SIGTERM)
    until(lambda: answer("readinessProbe") == 503)
    # While it drains, the pod lives and serves.
    assert (answer("startupProbe"), answer("livenessProbe")) == (200, 200)
    process.port = chosen["http"]
    assert process.get("/") == 200
    process.signal(signal.SIGTERM)
    assert process.ended() == 0


def _as_flag(variable: str) -> tuple[str, str]:
    """Return the flag for an INTRALB_ variable, because the tests' processes get no such variables."""
    name, _, value = variable.partition("=")
    return f"--{name.removeprefix('INTRALB_').lower().replace('_', '-')}", value


def test_times_fit_each_other(container: dict[str, Any]) -> None:
    values = {each["name"].removeprefix("INTRALB_").lower(): each["value"] for each in container["env"]}
    options = Options(
        drain_delay_seconds=float(values["drain_delay_seconds"]),
        graceful_timeout_seconds=float(values["graceful_timeout_seconds"]),
    )
    longest = options.drain_delay_seconds + options.graceful_timeout_seconds + options.cleanup_seconds
    longest += LAST_STEPS_SECONDS + max(3.0, options.graceful_timeout_seconds)
    assert longest < of_kind("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert options.graceful_timeout_seconds >= options.deadline_seconds
    ready, live = container["readinessProbe"], container["livenessProbe"]
    noticed = (
        (ready["failureThreshold"] - 1) * ready["periodSeconds"] + ready["periodSeconds"] + ready["timeoutSeconds"]
    )
    assert noticed < options.drain_delay_seconds
    assert (
        options.block_timeout_seconds < (live["failureThreshold"] - 1) * live["periodSeconds"] + live["timeoutSeconds"]
    )


def test_the_autoscaler_uses_metrics_that_exist(serve: Callable[..., Any]) -> None:
    spec = of_kind("HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"]["name"] == of_kind("Deployment")["metadata"]["name"]
    with AdminServer(("127.0.0.1", 0), serve(lambda environ, start_response: []).balancer) as admin:
        admin.start()
        with gevent.socket.create_connection(("127.0.0.1", admin.server_port)) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    for metric in spec["metrics"]:
        ((label, value),) = metric["pods"]["metric"]["selector"]["matchLabels"].items()
        assert re.search(rf'^{metric["pods"]["metric"]["name"]}{{[^}}]*{label}="{value}"', text, re.MULTILINE)
        assert metric["pods"]["target"]["averageValue"] == f"{SPARE * 1000:.0f}m"


# The image file.


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def last(name: str) -> str:
    return [value for instruction, value in instructions() if instruction == name][-1]


def test_the_image_has_all_files_that_the_installation_needs() -> None:
    copied = [value.split()[:-1] for name, value in instructions() if name == "COPY" and "--from" not in value]
    for name in (each for names in copied for each in names):
        assert (ROOT / name).exists() or name == "intralb_gevent", name
    needed = set(re.findall(r'HERE / "([\w.]+)"', (ROOT / "setup.py").read_text())) - {"intralb_gevent"}
    assert {*needed, "setup.py", "pyproject.toml"} <= {each for names in copied for each in names}


def test_the_image_serves_the_demo_and_its_health_check_notices_a_shutdown(
    run_python: Callable[..., Any], ports: Callable[[], int], until: Callable[..., Any]
) -> None:
    clients, admin = ports(), ports()
    assert json.loads(last("ENTRYPOINT")) == ["intralb-gevent"]
    assert last("EXPOSE") == "8000"
    changes = {"0.0.0.0:8000": f"127.0.0.1:{clients}", "127.0.0.1:9000": f"127.0.0.1:{admin}"}
    command = [changes.get(each, each) for each in json.loads(last("CMD"))]
    assert set(changes.values()) <= set(command)
    more = ("--ready-file", "ready.json", "--drain-delay-seconds", "20")
    process = run_python("-m", "intralb_gevent", *command, *more)
    process.is_ready()
    assert process.get("/") == 200
    text = last("HEALTHCHECK").partition("CMD ")[2]
    assert "127.0.0.1:9000" in text
    _, *check = json.loads(text.replace("127.0.0.1:9000", f"127.0.0.1:{admin}"))

    def healthy() -> bool:
        checked = subprocess.run([sys.executable, *check], capture_output=True, timeout=PATIENCE, check=False)
        return checked.returncode == 0

    assert healthy()
    process.signal(signal.SIGTERM)
    until(lambda: not healthy())
    process.signal(signal.SIGTERM)
    assert process.ended() == 0
    assert getattr(signal, last("STOPSIGNAL")) == signal.SIGTERM
    assert shlex.split(last("USER")) != ["root"]
