"""One sample: backends, links, two instances of a proxy, and a load on them."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import prepare
from processes import PROC, Failed, family_of, running, wait_until
from scenarios import LONG, WORKERS, ZONES, Scenario, spans

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RIG = ROOT / "target" / "release" / "rig"
PORT = 9000
ADMIN_PORT = 9901
INSTANCES = 2
# How often the gates are looked at.
GATE_SECONDS = 0.2
# The clients of other zones begin before and end after those that are measured.
OTHERS_LONGER = 20
# Of the samples of this process.
NUMBERS = itertools.count(1)
TEMPLATES = {"dislocate": "dislocate.toml.in", "haproxy": "haproxy.cfg.in", "envoy": "envoy.yaml.in"}


@dataclass(frozen=True)
class Backend:
    """One backend: its name begins with its zone."""

    name: str
    host: str
    speed: float
    weight: int

    @property
    def zone(self) -> str:
        return self.name.split("-")[0]


class Network:
    """A namespace for each zone, and a link to it."""

    def __init__(self, stack: contextlib.ExitStack, work: Path) -> None:
        self.files: dict[str, str] = {}
        for number, (zone, delay) in enumerate(ZONES.items()):
            holder = stack.enter_context(running(["unshare", "--net", "sleep", "infinity"], work / "zones.log"))
            file = f"/proc/{holder.pid}/ns/net"
            wait_until(partial(is_another_namespace, file), 5, "a namespace")
            subprocess.run(["nsenter", f"--net={file}", "ip", "link", "set", "lo", "up"], check=True)
            stack.enter_context(rig("link", "--near", f"/proc/self/ns/net,to-{zone},10.88.{number}.254/24",
                                    "--far", f"{file},{zone},10.88.{number}.1/24", "--delay-ms", str(delay)))
            for last in range(2, 20):
                address = f"10.88.{number}.{last}/24"
                subprocess.run(["nsenter", f"--net={file}", "ip", "address", "add", address, "dev", zone], check=True)
            self.files[zone] = file


def is_another_namespace(file: str) -> bool:
    """Whether `unshare` has come to its namespace."""
    return os.readlink(file) != os.readlink("/proc/self/ns/net")


class Gates:
    """Counts how often the home gate of each instance moves during a block."""

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts
        self.history: dict[str, list[tuple[float, int]]] = {host: [] for host in hosts}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Gates:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        start = time.monotonic()
        while not self.over.wait(GATE_SECONDS):
            for host in self.hosts:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    flips, history = home_flips(host), self.history[host]
                    if not history or history[-1][1] != flips:
                        history.append((round(time.monotonic() - start, 2), flips))


def home_flips(host: str) -> int:
    """How often the gate of the home zone has opened or closed."""
    connection = http.client.HTTPConnection(host, ADMIN_PORT, timeout=1)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/services")
        services = json.load(connection.getresponse())
    return sum(zone["gate_flips"] for service in services for zone in service["zones"] if zone["home"])


def sample(scenario: Scenario, name: str, network: Network | None, dislocate: Path, work: Path, seconds: float,
           seed: int) -> dict:
    """What the clients of one proxy saw, and whether the proxy had a processor when it wanted one."""
    number = next(NUMBERS)
    seconds = scenario.length(seconds)
    backends = place(scenario, number)
    hosts = [f"127.8.{number % 250}.{instance + 1}" for instance in range(INSTANCES)]
    with contextlib.ExitStack() as stack:
        commands = start_backends(stack, scenario, backends, network, work, seconds)
        for moment, command in scenario.events(seconds):
            if moment == 0:
                tell(commands, command)
        proxies = [stack.enter_context(proxy(name, host, backends, dislocate, work)) for host in hosts]
        time.sleep(2.5)
        timers = [threading.Timer(moment, tell, (commands, command))
                  for moment, command in scenario.events(seconds) if moment > 0]
        watch = scenario.zones and name in ("dislocate-latency", "dislocate-strict")
        gates = stack.enter_context(Gates(hosts if watch else []))
        before = [scheduled(each.pid) for each in proxies]
        for timer in timers:
            timer.start()
            stack.callback(timer.cancel)
        outcome = put_load(scenario, hosts, seconds, seed)
        used = [[now - then for now, then in zip(scheduled(each.pid), past, strict=True)]
                for each, past in zip(proxies, before, strict=True)]
    return {
        "spans": outcome["spans"], "seconds": outcome["seconds"],
        "gates": gates.history, "flips": {host: seen[-1][1] - seen[0][1] for host, seen in gates.history.items() if seen},
        "proxy_ran": [ran for ran, _ in used], "proxy_waited": [waited for _, waited in used],
    }


def place(scenario: Scenario, number: int) -> list[Backend]:
    """The backends, at addresses that no sample shortly before has used."""

    def host(zone: str, index: int) -> str:
        if scenario.zones:
            return f"10.88.{list(ZONES).index(zone)}.{index + 1}"
        return f"127.9.{number % 250}.{index + 1}"

    each = list(enumerate(zip(scenario.speeds, scenario.weights, strict=False)))
    return [Backend(f"{zone}-{index}", host(zone, index), speed, weight)
            for zone in scenario.zones or ["home"] for index, (speed, weight) in each]


def start_backends(stack: contextlib.ExitStack, scenario: Scenario, backends: list[Backend], network: Network | None,
                   work: Path, seconds: float) -> dict:
    """Starts them, and the load that other zones have of their own; gives where each zone takes commands."""
    commands = {}
    for zone in scenario.zones or ["home"]:
        here = [each for each in backends if each.zone == zone]
        listed = ",".join(f"{each.name}={each.host}:{PORT}={each.speed}" for each in here)
        where = ["--netns", network.files[zone]] if network and scenario.zones else []
        words = ["backends", "--workers", str(WORKERS), "--backends", listed, *where]
        commands[zone] = stack.enter_context(rig(*words)).stdin
        if zone != "home":
            load = ["load", "--targets", ",".join(f"{each.host}:{PORT}" for each in here), "--seed", "77",
                    "--rates", f"0:{scenario.capacity() * scenario.others}", "--seconds", str(seconds + OTHERS_LONGER)]
            stack.enter_context(running([str(RIG), *load, *where], work / "others.log"))
    return commands


def put_load(scenario: Scenario, hosts: list[str], seconds: float, seed: int) -> dict:
    words = [str(RIG), "load", "--targets", ",".join(f"{each}:{PORT}" for each in hosts), "--seconds", str(seconds),
             "--rates", ",".join(f"{part * seconds}:{load * scenario.capacity()}" for part, load in scenario.rates),
             "--timeout", str(scenario.timeout), "--seed", str(seed), *scenario.work,
             "--spans", ",".join(f"{span}:{start}:{end}" for span, (start, end) in spans(seconds).items())]
    if scenario.long:
        words += ["--requests", LONG, "--think-ms", "50"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr)
    return json.loads(done.stdout)


@contextlib.contextmanager
def proxy(name: str, host: str, backends: list[Backend], dislocate: Path,
          work: Path) -> Iterator[subprocess.Popen[bytes]]:
    folder = work / name / host
    folder.mkdir(parents=True, exist_ok=True)
    kind, policy = name.split("-", 1)
    values = {"LISTEN": f"{host}:{PORT}", "LISTEN_ADDRESS": host, "LISTEN_PORT": str(PORT),
              "ADMIN": f"{host}:{ADMIN_PORT}",
              "BALANCE": {"random2": "random(2)", "strict": "latency"}.get(policy, policy),
              "ZONES": "strict" if policy == "strict" else "latency"}
    file = folder / TEMPLATES[kind].removesuffix(".in")
    file.write_text(render((HERE / "config" / TEMPLATES[kind]).read_text(), values, backends))
    command = {
        "dislocate": [str(dislocate), "run", "-c", str(file)],
        "haproxy": ["haproxy", "-db", "-f", str(file)],
        "envoy": [str(prepare.ENVOY), "--config-path", str(file), "--concurrency", "1", "--log-level", "error",
                  "--disable-hot-restart"],
    }[kind]
    log = folder / "log"
    log.unlink(missing_ok=True)
    with running(command, log) as process:
        wait_until(lambda: process.poll() is not None or accepts(host), 20, f"start of {name}")
        if process.poll() is not None:
            raise Failed(f"{name} ended: {log.read_text()[-600:]}")
        yield process


def render(template: str, values: dict[str, str], backends: list[Backend]) -> str:
    """Fills a template; a line that names a backend is repeated for each."""
    lines = []
    for line in template.splitlines():
        if "@BACKEND" not in line:
            lines.append(line)
            continue
        for index, backend in enumerate(backends):
            filled = line
            for name, value in {
                "BACKEND": f"{backend.host}:{PORT}", "BACKEND_ADDRESS": backend.host, "BACKEND_PORT": str(PORT),
                "INDEX": str(index), "ZONE": backend.zone, "PRIORITY": priority(backend, backends),
                "BACKUP": "" if backend.zone == "home" else "backup", "WEIGHT": str(backend.weight),
            }.items():
                filled = filled.replace(f"@{name}@", value)
            lines.append(filled)
    text = "\n".join(lines) + "\n"
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def priority(backend: Backend, backends: list[Backend]) -> str:
    """The place of its zone by distance, without gaps."""
    return str(list(dict.fromkeys(each.zone for each in backends)).index(backend.zone))


def accepts(host: str) -> bool:
    try:
        socket.create_connection((host, PORT), timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def rig(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A part of the rig that takes commands and ends with its standard input."""
    process = subprocess.Popen([str(RIG), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        if process.stdout.readline() != "ready\n":
            raise Failed(f"rig {words[0]} did not start")
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=10)


def tell(commands: dict, command: str) -> None:
    stdin = commands[command.split("-")[0]]
    stdin.write(command + "\n")
    stdin.flush()


def scheduled(root: int) -> tuple[float, float]:
    """Seconds that the threads of a process have run, and that they were ready to and had to wait for a processor."""
    ran = waited = 0
    for pid in family_of(root):
        with contextlib.suppress(OSError):
            for task in (PROC / str(pid) / "task").iterdir():
                fields = (task / "schedstat").read_text().split()
                ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return ran / 1e9, waited / 1e9
