"""What the measurements stand on: the program, registries, backends, clients."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from processes import Failed, running, stop, wait_until

HERE = Path(__file__).resolve().parent
PATIENCE_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, timeout: float = 2.0) -> str | None:
    """Which backend serves one connection; nothing when it fails."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout) as connection:
        answer = connection.recv(64)
        # A whole line or nothing: a connection that breaks off within one has failed.
        return answer.decode().strip() if answer.endswith(b"\n") else None
    return None


@contextlib.contextmanager
def talking(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that says `ready`, takes lines and ends with its standard input."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline() != "ready\n":
            raise Failed(f"{command[:2]} does not begin")
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        stop(process)


def crowd(*ports: int) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Backends on every address of 127/8, on these ports."""
    return talking([sys.executable, str(HERE / "crowd.py"), *map(str, ports)])


def registry(port: int, services: int, instances: int, rate: int) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Services that change as fast as `rate` says between `on` and `off`."""
    return talking([sys.executable, str(HERE / "registry.py"), *map(str, (port, services, instances, rate))])


class Dislocate:
    """The program with a configuration."""

    def __init__(self, binary: Path, folder: Path, configuration: str) -> None:
        self.admin = free_port()
        self.log, self.config = folder / "log", folder / "dislocate.toml"
        self.config.write_text(f'[admin]\nlisten = "127.0.0.1:{self.admin}"\n\n{configuration}')
        self.command = [str(binary), "run", "--config", str(self.config)]

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with running(self.command, self.log) as process:
            wait_until(lambda: self.is_ready(process), PATIENCE_S, f"the program is ready (log: {self.log})")
            yield process

    def is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            raise Failed(f"the program has ended; its log is {self.log}")
        with contextlib.suppress(OSError):
            return bool(self.page("/readyz"))
        return False

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=30) as answer:
            return answer.read().decode()

    def sum(self, name: str) -> float:
        """Of the samples of a metric, whatever their labels."""
        lines = (line for line in self.page("/metrics").splitlines() if line.startswith((f"{name}{{", f"{name} ")))
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def put(path: Path, addresses: list[str]) -> None:
    """A list of endpoints, put in place by a rename."""
    new = path.with_name("." + path.name)
    new.write_text(json.dumps({"endpoints": [{"address": each} for each in addresses]}))
    new.rename(path)


class FileRegistry:
    """A file."""

    name = "file"
    # A file is read when nothing was written for so long.
    rest_ms = 50.0

    def __init__(self, folder: Path) -> None:
        self.path = folder / "endpoints.json"
        self.source = f'kind = "file"\npath = "{self.path}"'

    def running(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def set(self, addresses: list[str]) -> None:
        put(self.path, addresses)


class Etcd:
    """A real etcd, of which each key is a backend."""

    name = "etcd"
    rest_ms = 0.0

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, set()
        self.url, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        self.source = f'kind = "etcd"\nprefix = "/web/"\nurls = ["{self.url}"]\nallowed_cidrs = ["127.0.0.0/8"]'
        self.command = [
            *("etcd", "--data-dir", str(folder / "etcd"), "--listen-client-urls", self.url),
            *("--advertise-client-urls", self.url, "--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with running(self.command, self.folder / "etcd.log"):
            wait_until(self._answers, PATIENCE_S, "etcd answers")
            yield

    def set(self, addresses: list[str]) -> None:
        for gone in self.known - set(addresses):
            self._call("deleterange", {"key": f"/web/{gone}"})
        for new in set(addresses) - self.known:
            self._call("put", {"key": f"/web/{new}", "value": json.dumps({"address": new})})
        self.known = set(addresses)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self._call("range", {"key": "x"})
            return True
        return False

    def _call(self, what: str, message: dict[str, str]) -> None:
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in message.items()}
        request = urllib.request.Request(f"{self.url}/v3/kv/{what}", json.dumps(encoded).encode())
        urllib.request.urlopen(request, timeout=5).read()


class Consul:
    """A real Consul, alone."""

    name = "consul"
    rest_ms = 0.0

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, set()
        ports = {each: free_port() for each in ("http", "server", "serf_lan")}
        ports |= {each: -1 for each in ("dns", "grpc", "serf_wan")}
        self.url = f"http://127.0.0.1:{ports['http']}"
        self.source = f'kind = "consul"\nservice = "web"\nurl = "{self.url}"\nallowed_cidrs = ["127.0.0.0/8"]'
        (folder / "consul.json").write_text(json.dumps({"ports": ports}))
        self.command = ["consul", "agent", "-dev", "-bind", "127.0.0.1", "-config-file", str(folder / "consul.json")]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with running(self.command, self.folder / "consul.log"):
            wait_until(self._leads, PATIENCE_S, "consul has a leader")
            yield

    def set(self, addresses: list[str]) -> None:
        for gone in self.known - set(addresses):
            self._put(f"deregister/{gone}", None)
        for new in set(addresses) - self.known:
            host, port = new.split(":")
            self._put("register", {"ID": new, "Name": "web", "Address": host, "Port": int(port)})
        self.known = set(addresses)

    def _leads(self) -> bool:
        with contextlib.suppress(OSError):
            return len(urllib.request.urlopen(f"{self.url}/v1/status/leader", timeout=5).read()) > 4
        return False

    def _put(self, what: str, message: dict[str, object] | None) -> None:
        body = json.dumps(message).encode() if message else b""
        request = urllib.request.Request(f"{self.url}/v1/agent/service/{what}", body, method="PUT")
        urllib.request.urlopen(request, timeout=5).read()


def registries(folder: Path) -> list[FileRegistry | Etcd | Consul]:
    """Those that are to be had, and a loud line for those that are not."""
    kinds = [FileRegistry]
    for program, kind in (("etcd", Etcd), ("consul", Consul)):
        if shutil.which(program):
            kinds.append(kind)
        else:
            print(f"!! NO {program.upper()}: not measured", file=sys.stderr)
    made = []
    for kind in kinds:
        place = folder / kind.name
        os.makedirs(place, exist_ok=True)
        made.append(kind(place))
    return made


def until(condition: Callable[[], object], seconds: float = PATIENCE_S, what: str = "it happens") -> float:
    """The time when the condition was first seen to hold, looked at without a pause."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
    return time.monotonic()
