"""What is measured: each proxy's configuration, command line and way of reloading.

The configurations are the files in `config/`. In them `@NAME@` stands for a value, and a line that names a backend is
repeated once for each backend. A line behind `@LASTING@` or `@BRIEF@` is there only while UDP flows are to last, or to
end after one answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path(__file__).parent / "config"
MARK = {"lasting": "@LASTING@ ", "brief": "@BRIEF@ "}
DIRECT = "direct"


@dataclass(frozen=True)
class Address:
    """An IPv4 address and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Setup:
    """The same for every proxy of one sample."""

    directory: Path
    listen: Address
    threads: int
    descriptors: int
    protocol: str = "tcp"
    # UDP only: a flow is over after one datagram each way.
    brief: bool = False

    @property
    def connections(self) -> int:
        """Two descriptors a connection, and some for pipes and the rest, have to fit the descriptor limit.

        A UDP flow takes one.
        """
        return self.descriptors - 2000 if self.protocol == "udp" else (self.descriptors - 1000) // 3


@dataclass(frozen=True)
class Peer:
    """One proxy, or one way to run it."""

    name: str
    templates: tuple[str, ...]
    # The same for UDP; empty: it cannot forward UDP.
    udp_templates: tuple[str, ...]
    command: Callable[[Setup], list[str]]
    # Where reloading needs another way of running (HAProxy's master process), which nothing else is measured with.
    reloadable: Callable[[Setup], list[str]]
    # None: the proxy watches its file and needs no signal.
    reload_signal: signal.Signals | None
    version: list[str]

    def write(self, setup: Setup, backends: list[Address]) -> None:
        """Puts the configuration in place, each file by a rename, as a proxy that watches it needs."""
        for template in self.udp_templates if setup.protocol == "udp" else self.templates:
            target = setup.directory / template.removesuffix(".in").replace("-udp", "")
            text = render((CONFIG / template).read_text(), setup, backends)
            target.with_suffix(".new").write_text(text)
            target.with_suffix(".new").rename(target)

    def forwards(self, protocol: str) -> bool:
        """Whether it can do `tcp` or `udp` at all."""
        return protocol == "tcp" or bool(self.udp_templates)

    def program(self) -> str:
        """What its command lines start with."""
        return self.version[0]

    def reload(self, setup: Setup, backends: list[Address], pid: int) -> None:
        """Changes the backends of the running proxy."""
        self.write(setup, backends)
        if self.reload_signal is not None:
            os.kill(pid, self.reload_signal)


def render(text: str, setup: Setup, backends: list[Address]) -> str:
    """Fills a template."""
    values = {
        "LISTEN": str(setup.listen),
        "LISTEN_ADDRESS": setup.listen.host,
        "LISTEN_PORT": str(setup.listen.port),
        "DIRECTORY": str(setup.directory),
        "THREADS": str(setup.threads),
        "CONNECTIONS": str(setup.connections),
        "SOCKETS": str(setup.connections * 2),
        "DESCRIPTORS": str(setup.descriptors),
    }
    lines: list[str] = []
    for line in text.splitlines():
        if MARK["lasting" if setup.brief else "brief"] in line:
            continue
        for mark in MARK.values():
            line = line.replace(mark, "")
        if "@BACKEND" not in line:
            lines.append(line)
            continue
        for index, backend in enumerate(backends):
            filled = line.replace("@BACKEND@", str(backend)).replace("@BACKEND_ADDRESS@", backend.host)
            lines.append(filled.replace("@BACKEND_PORT@", str(backend.port)).replace("@INDEX@", str(index)))
    text = "\n".join(lines) + "\n"
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def all_peers(dislocate: Path, envoy: Path) -> list[Peer]:
    """Every proxy, in the order of the tables."""
    return [
        _haproxy("haproxy", "haproxy-stock.cfg"),
        _haproxy("haproxy-tuned", "haproxy-tuned.cfg"),
        _simple("nginx", ("nginx.conf.in",), ("nginx-udp.conf.in",), _nginx, signal.SIGHUP, ["nginx", "-v"]),
        _simple(
            "envoy",
            ("envoy-clusters.yaml.in", "envoy.yaml.in"),
            ("envoy-clusters.yaml.in", "envoy-udp.yaml.in"),
            _envoy(envoy),
            None,
            [str(envoy), "--version"],
        ),
        _simple(
            "dislocate",
            ("dislocate.toml.in",),
            ("dislocate-udp.toml.in",),
            lambda setup: [str(dislocate), "run", "-c", str(setup.directory / "dislocate.toml")],
            signal.SIGHUP,
            [str(dislocate), "--version"],
        ),
    ]


def version(peer: Peer) -> str:
    """The line in which the proxy says what it is."""
    done = subprocess.run(peer.version, capture_output=True, text=True, check=False)
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    # Some begin with their path, which is this machine's affair.
    return lines[0].removeprefix(peer.version[0]).strip() if lines else "unknown"


def _simple(
    name: str,
    templates: tuple[str, ...],
    udp_templates: tuple[str, ...],
    command: Callable[[Setup], list[str]],
    reload_signal: signal.Signals | None,
    version_command: list[str],
) -> Peer:
    return Peer(name, templates, udp_templates, command, command, reload_signal, version_command)


def _haproxy(name: str, config: str) -> Peer:
    def command(*options: str) -> Callable[[Setup], list[str]]:
        return lambda setup: ["haproxy", *options, "-f", str(setup.directory / config)]

    return Peer(name, (f"{config}.in",), (), command("-db"), command("-W"), signal.SIGUSR2, ["haproxy", "-v"])


def _nginx(setup: Setup) -> list[str]:
    return ["nginx", "-e", "stderr", "-p", str(setup.directory), "-c", str(setup.directory / "nginx.conf")]


def _envoy(binary: Path) -> Callable[[Setup], list[str]]:
    return lambda setup: [
        str(binary),
        "--config-path",
        str(setup.directory / "envoy.yaml"),
        "--concurrency",
        str(setup.threads),
        "--log-level",
        "error",
        # Hot restart reserves shared memory under a machine-wide number; nothing here uses it.
        "--disable-hot-restart",
    ]
