"""What is compared: how each proxy is started, in the configuration its users would give it.

One worker each, connections to engines kept alive wherever the proxy can, access log to a file.
"""

from __future__ import annotations

import contextlib
import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.proxies.processes import await_answer, free_port, running

ROUTER = "vllm-router"
NAIVE = "FastAPI + httpx"
UNBUFFERED = "nginx, unbuffered"
DIRECT = "straight to the engine"
SMG = "smg"
#: Installed by scripts/bench, apart from the router: it brings a hundred megabytes.
_SMG_COMMAND = Path(__file__).parents[2] / "build" / "smg" / "bin" / "smg"


@dataclass(frozen=True, slots=True)
class Target:
    """Something to send uploads to.

    Attributes:
        url: Where it listens.
        pid: Whose CPU and memory count; None for an engine itself.
    """

    url: str
    pid: int | None


Start = Callable[[Path, list[str]], AbstractContextManager[Target]]


@contextlib.contextmanager
def direct(folder: Path, engines: list[str]) -> Iterator[Target]:
    """Put nothing in between."""
    yield Target(engines[0], None)


@contextlib.contextmanager
def _serve(
    folder: Path,
    name: str,
    command: list[str],
    port: int,
    env: dict[str, str] | None = None,
    path: str = "/health",
) -> Iterator[Target]:
    log = folder / f"{name}.log"
    with running(command, log, env) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(url + path, process, log)
        yield Target(url, process.pid)


def router(folder: Path, engines: list[str], *flags: str) -> AbstractContextManager[Target]:
    """Start the router with its defaults: everything on."""
    port = free_port()
    command = [sys.executable, "-m", "vllm_router.app", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--static-backends", ",".join(engines), *flags]
    return _serve(folder, "router", command, port, path="/ready")


def naive(folder: Path, engines: list[str]) -> AbstractContextManager[Target]:
    """Start the FastAPI + httpx proxy."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parent)]
    command += ["--port", str(port), "naive:app"]
    return _serve(folder, "naive", command, port, {"ENGINES": ",".join(engines)})


_NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 20000; }}
http {{
  access_log {folder}/nginx-access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  upstream engines {{
    {servers}
    {upstream}
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engines;
      {location}
    }}
  }}
}}
"""
_KEPT = 'proxy_http_version 1.1; proxy_set_header Connection "";'


def _nginx(name: str, location: str, upstream: str) -> Start:
    def start(folder: Path, engines: list[str]) -> AbstractContextManager[Target]:
        home = folder / name
        home.mkdir(exist_ok=True)
        port = free_port()
        servers = "\n    ".join(f"server {urlsplit(url).netloc};" for url in engines)
        user = f"user {getpass.getuser()};" if getpass.getuser() == "root" else ""
        config = home / "nginx.conf"
        config.write_text(
            _NGINX.format(
                folder=home,
                port=port,
                servers=servers,
                location=location,
                upstream=upstream,
                user=user,
            )
        )
        return _serve(folder, name, ["nginx", "-p", str(home), "-c", str(config)], port)

    return start


_HAPROXY = """
global
  nbthread 1
  maxconn 4096
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend uploads
  bind 127.0.0.1:{port} backlog 4096
  default_backend engines
backend engines
  balance leastconn
{servers}
"""


def haproxy(folder: Path, engines: list[str]) -> AbstractContextManager[Target]:
    """Start HAProxy."""
    port = free_port()
    servers = "\n".join(f"  server e{i} {urlsplit(url).netloc}" for i, url in enumerate(engines))
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, servers=servers))
    return _serve(folder, "haproxy", ["haproxy", "-f", str(config)], port)


def smg(folder: Path, engines: list[str]) -> AbstractContextManager[Target]:
    """Start the Shepherd Model Gateway, written in Rust, with its defaults."""
    port = free_port()
    command = [str(_SMG_COMMAND), "launch", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-port", str(free_port()), "--worker-urls", *engines]
    # It waits this long for what is under way even if nothing is.
    command += ["--shutdown-grace-period-secs", "1"]
    return _serve(folder, "smg", command, port, path="/readiness")


CONTENDERS: dict[str, Start] = {
    DIRECT: direct,
    ROUTER: router,
    "HAProxy": haproxy,
    UNBUFFERED: _nginx(
        "nginx-unbuffered", _KEPT + " proxy_request_buffering off;", "keepalive 64;"
    ),
    "nginx, 2 MB buffer": _nginx(
        "nginx-buffered", _KEPT + " client_body_buffer_size 2m;", "keepalive 64;"
    ),
    "nginx, defaults": _nginx("nginx-defaults", "", ""),
    SMG: smg,
    NAIVE: naive,
}
