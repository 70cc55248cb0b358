"""The figures, each by a function of the program, a folder and whether it is in a hurry, which gives its text."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import prepare
import world
from processes import Failed, cpu_seconds, memory_bytes, running, wait_until
from world import Dislocate, ask, free_port, put, until

SERVICES, INSTANCES = 1_000, 10
PAUSE_S = 2.7


def service(name: str, port: int | None, body: str, health: str = 'kind = "none"') -> str:
    """A service, with a listener if it is to have one."""
    listener = f'[[listener]]\nname = "{name}"\nlisten = "127.0.0.1:{port}"\nservice = "{name}"\n\n' if port else ""
    return f'{listener}[[service]]\nname = "{name}"\nhealth = {{ {health} }}\n{body}\n\n'


def storming(port: int) -> str:
    """The services of `registry.py`."""
    source = f'kind = "consul"\nurl = "http://127.0.0.1:{port}"\nallowed_cidrs = ["127.0.0.0/8"]'
    body = "balance = \"round_robin\"\n[[service.source]]\n" + source
    return "".join(service(f"s-{n}", None, f'{body}\nservice = "s-{n}"') for n in range(SERVICES))


@contextlib.contextmanager
def stormy(registry: subprocess.Popen[str]) -> Iterator[dict[str, float]]:
    """Changes for the length of a block; afterwards how many there were."""
    counts: dict[str, float] = {}
    begun = time.monotonic()
    print("on", file=registry.stdin, flush=True)
    try:
        yield counts
    finally:
        print("off", file=registry.stdin, flush=True)
        counts |= json.loads(registry.stdout.readline())
        counts["seconds"] = time.monotonic() - begun


def change_to_use(binary: Path, folder: Path, quick: bool) -> str:
    """From the call that adds a backend to the first connection that it serves."""
    rows = ["| registry | changes around | median ms | worst ms | goal ms | |", "| --- | --- | --- | --- | --- | --- |"]
    backends, registry_port = free_port(), free_port()
    home = [f"127.1.0.1:{backends}"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.crowd(backends))
        storm = stack.enter_context(world.registry(registry_port, SERVICES, INSTANCES, 1_000))
        kinds = world.registries(folder)
        ports = [free_port() for _ in kinds]
        for kind in kinds:
            stack.enter_context(kind.running())
            kind.set(home)
        source = "balance = \"round_robin\"\n[[service.source]]\n"
        services = [service(kind.name, port, source + kind.source) for kind, port in zip(kinds, ports)]
        program = Dislocate(binary, folder, "".join(services) + storming(registry_port))
        stack.enter_context(program.running())
        for port in ports:
            until(lambda: ask(port), what="the first backend serves")
        known = "dislocate_source_endpoints"
        wait_until(lambda: program.sum(known) >= SERVICES * INSTANCES + len(kinds), 30, "all services are known")
        for around, most in (("none", 10.0), ("1,000 a second", 1_000.0)):
            with stormy(storm) if around != "none" else contextlib.nullcontext():
                took = rounds_of_change(kinds, ports, home, 3 if quick else 15, backends)
            for kind in kinds:
                worst, goal = max(took[kind.name]), most + kind.rest_ms
                rows.append(f"| {kind.name} | {around} | {statistics.median(took[kind.name]):.1f} | {worst:.1f} | {goal:g} | "
                            f"{verdict(statistics.median(took[kind.name]) <= goal)} |")
    return "\n".join(rows)


def rounds_of_change(kinds: list, ports: list[int], home: list[str], rounds: int, backends: int) -> dict[str, list[float]]:
    """Milliseconds of each change, by the registry.

    Between two changes of one it is quiet for longer than changes are gathered, and of three losses of one never are all
    within the ten seconds in which the guard counts them.
    """
    took: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    for turn in range(rounds):
        new = f"127.1.1.{turn + 1}:{backends}"
        for kind, port in zip(kinds, ports):
            begun = time.monotonic()
            kind.set([*home, new])
            took[kind.name].append((until(lambda: ask(port) == new, what="a new backend serves") - begun) * 1e3)
        time.sleep(PAUSE_S)
        for kind, port in zip(kinds, ports):
            kind.set(home)
            until(lambda: all(ask(port) == home[0] for _ in range(3)), what="an old backend is gone")
        time.sleep(PAUSE_S)
    return took


def storm(binary: Path, folder: Path, quick: bool) -> str:
    """5,000 changes a second over 1,000 services, beside the same in another process and beside none."""
    rate, offered, seconds, rounds = 5_000, 2_000, 3.0, 5 if quick else 10
    listener, target = free_port(), f"127.1.0.1:{free_port()}"
    ours, others = free_port(), free_port()
    program = Dislocate(binary, folder, service("web", listener, f'backends = ["{target}"]') + storming(ours))
    (folder / "other").mkdir()
    other = Dislocate(binary, folder / "other", service("web", free_port(), f'backends = ["{target}"]') + storming(others))
    serve = [str(prepare.LOAD), "serve", "--kind", "echo", "--addresses", target]
    client = [str(prepare.LOAD), "requests", "--targets", f"127.0.0.1:{listener}", "--connections", "64"]
    client += ["--seconds", str(seconds), "--rate", str(offered)]
    with contextlib.ExitStack() as stack:
        server = subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(lambda: (server.stdin.close(), server.wait(timeout=5)))
        server.stdout.readline()
        here = stack.enter_context(world.registry(ours, SERVICES, INSTANCES, rate))
        elsewhere = stack.enter_context(world.registry(others, SERVICES, INSTANCES, rate))
        process = stack.enter_context(program.running())
        stack.enter_context(other.running())
        for each in (program, other):
            known = lambda: each.sum("dislocate_source_endpoints") >= SERVICES * INSTANCES
            wait_until(known, 60, "all services are known")
        before = memory_bytes(process.pid)
        arms: dict[str, list[dict[str, float]]] = {"none": [], "in another process": [], "here": []}
        storms: list[tuple[dict[str, float], float]] = []
        for turn in range(rounds):
            names = list(arms)
            random.Random(turn).shuffle(names)
            for name in names:
                registry = {"here": here, "in another process": elsewhere}.get(name)
                cpu = cpu_seconds(process.pid)
                with stormy(registry) if registry else contextlib.nullcontext() as counts:
                    done = subprocess.run(client, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise Failed(f"the load: {done.stderr.strip()}")
                arms[name].append(json.loads(done.stdout))
                if name == "here":
                    storms.append((counts, cpu_seconds(process.pid) - cpu))
                time.sleep(0.5)
        after = memory_bytes(process.pid)
        applied = program.sum("dislocate_source_updates_total")
    median = lambda name, what: statistics.median(each[what] for each in arms[name])
    rows = ["| changes | p50 µs | p99 µs | p99.9 µs | p99 beside none | errors |", "| --- | --- | --- | --- | --- | --- |"]
    for name in arms:
        ratios = [one["p99_us"] / base["p99_us"] for one, base in zip(arms[name], arms["none"])]
        rows.append(f"| {name} | {median(name, 'p50_us'):.0f} | {median(name, 'p99_us'):.0f} | {median(name, 'p999_us'):.0f} | "
                    f"{statistics.median(ratios):.2f} | {sum(each['errors'] for each in arms[name])} |")
    inside = statistics.median(a["p99_us"] / b["p99_us"] for a, b in zip(arms["here"], arms["in another process"]))
    changes, answers = (statistics.median(each[what] / each["seconds"] for each, _ in storms) for what in ("changes", "answers"))
    quiet_cpu = offered * seconds
    rows += ["", f"{changes:,.0f} changes a second in {answers:,.0f} answers of {INSTANCES} instances; {rounds} rounds of {seconds:g} s, "
             f"{offered:,} requests a second on 64 connections. p99 here beside p99 with the changes in another process: "
             f"**{inside:.2f}** (goal 1.05, {verdict(inside <= 1.05)}). {quiet_cpu:,.0f} requests and their storm took "
             f"{statistics.median(cpu for _, cpu in storms):.2f} s of processor time. Memory "
             f"{before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after {applied:,.0f} updates."]
    return "\n".join(rows)


class Clients:
    """Short connections one after another on some threads, each with what served it and when."""

    def __init__(self, port: int, threads: int = 3) -> None:
        self.served: list[tuple[float, str | None]] = []
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=(port,)) for _ in range(threads)]

    def __enter__(self) -> Clients:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_) -> None:
        self._ending.set()
        for each in self._threads:
            each.join()

    def _go_on(self, port: int) -> None:
        while not self._ending.is_set():
            begun = time.monotonic()
            self.served.append((begun, ask(port, timeout=10)))


def numbered(block: int, number: int, port: int) -> str:
    return f"127.{block}.{number // 250}.{number % 250 + 1}:{port}"


def turnover(binary: Path, folder: Path, quick: bool) -> str:
    """2,000 backends, replaced step by step and all at once. In a hurry the steps are as slow: the guard counts them."""
    count, steps, pause = 2_000, 100 if quick else 400, 0.1
    first, second, listener = free_port(), free_port(), free_port()
    path = folder / "endpoints.json"
    source = f'balance = "round_robin"\n[[service.source]]\nkind = "file"\npath = "{path}"'
    rows = ["| | connections | failed | latest start on one that was taken out, ms after | goal ms | |", "| --- | --- | --- | --- | --- | --- |"]
    with contextlib.ExitStack() as stack:
        crowd = stack.enter_context(world.crowd(first, second))
        old = [numbered(20, n, first) for n in range(count)]
        put(path, old)
        program = Dislocate(binary, folder, service("web", listener, source, 'kind = "tcp", interval = "1s"'))
        stack.enter_context(program.running())
        until(lambda: ask(listener), what="the first backend serves")

        # Step by step, as a deployment does it: new ones come, as many old ones go, all of which still answer.
        new = [numbered(30, n, first) for n in range(count)]
        gone: dict[str, float] = {}
        size = count // 400
        with Clients(listener) as clients:
            for step in range(steps):
                put(path, new[: (step + 1) * size] + old[(step + 1) * size :])
                gone |= dict.fromkeys(old[step * size : (step + 1) * size], time.monotonic())
                time.sleep(pause)
            time.sleep(3)
        rows.append(row("step by step, 50 a second, old ones still answer", clients, gone, 1_500))

        # All at once, in a list of entirely others: the old ones serve on while they answer, and end two seconds later.
        last = [numbered(40, n, second) for n in range(count)]
        with Clients(listener) as clients:
            time.sleep(1)
            put(path, last)
            time.sleep(2)
            print(first, file=crowd.stdin, flush=True)
            crowd.stdout.readline()
            gone = dict.fromkeys([*old, *new], time.monotonic())
            while program.sum("dislocate_orphans") and time.monotonic() < gone[old[0]] + 60:
                time.sleep(0.1)
            stayed = time.monotonic() - gone[old[0]]
            time.sleep(2)
        rows.append(row("all at once; the old ones end 2 s after the list", clients, gone, 0))
    rows.append(f"\nOf {count:,} that were replaced at once and ended, the last left the set {stayed:.1f} s after its end.")
    return "\n".join(rows)


def row(what: str, clients: Clients, gone: dict[str, float], goal_ms: float) -> str:
    late = max((begun - gone[by] for begun, by in clients.served if by in gone and begun > gone[by]), default=0.0) * 1e3
    failed = sum(by is None for _, by in clients.served)
    return f"| {what} | {len(clients.served):,} | {failed} | {late:.0f} | {goal_ms:g} | {verdict(failed == 0 and late <= goal_ms)} |"


def cold_start(binary: Path, folder: Path, quick: bool) -> str:
    """From starting the program to the first connection that a remembered backend serves, with the registry away."""
    count, starts = 10_000, 3 if quick else 20
    backends, listener, registry = free_port(), free_port(), free_port()
    body = json.dumps({"endpoints": [{"address": numbered(50, n, backends)} for n in range(count)]}).encode()
    source = f'[[service.source]]\nkind = "http"\nurl = "http://127.0.0.1:{registry}/"\nallowed_cidrs = ["127.0.0.0/8"]'
    (folder / "state").mkdir()
    configuration = f'[node]\nstate_dir = "{folder / "state"}"\n\n' + service("web", listener, source)
    program = Dislocate(binary, folder, configuration)
    took = []
    with world.crowd(backends):
        with page_server(registry, body), program.running():
            until(lambda: ask(listener), what="the page was read")
        for _ in range(starts):
            begun = time.monotonic()
            with running(program.command, program.log):
                took.append((until(lambda: ask(listener), what="a remembered backend serves") - begun) * 1e3)
                wait_until(lambda: program.sum("dislocate_source_endpoints") == count, 10, "all are remembered")
    worst = max(took)
    return (f"{count:,} backends, {starts} starts: median **{statistics.median(took):.0f} ms**, worst {worst:.0f} ms "
            f"(goal 100 ms, {verdict(worst <= 100)}).")


@contextlib.contextmanager
def page_server(port: int, body: bytes) -> Iterator[None]:
    """One page, for whoever asks."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(4096)
                    connection.sendall(head + body)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        # `close` alone would leave `accept` waiting.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def members(_binary: Path, _folder: Path, _quick: bool) -> str:
    """A hundred thousand endpoints, inside of the crate."""
    bench = ["cargo", "bench", "--quiet", "--locked", "-p", "dislocate-discovery", "--bench", "members"]
    done = subprocess.run(bench, cwd=prepare.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip()[-300:])
    return f"```text\n{done.stdout.strip()}\n```\n\nGoals: 1 s, 600 B each, 20 µs for a change in 100 and 2 ms in 100,000."


def verdict(is_good: bool) -> str:
    return "held" if is_good else "**missed**"


ALL: dict[str, tuple[str, Callable[[Path, Path, bool], str]]] = {
    "change": ("From a change in a registry to its use", change_to_use),
    "storm": ("5,000 changes a second over 1,000 services", storm),
    "turnover": ("A whole turnover under traffic", turnover),
    "cold-start": ("A start with every registry away", cold_start),
    "members": ("100,000 endpoints of one service", members),
}
