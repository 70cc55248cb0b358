"""The loads: what each does to a proxy, and what it measures."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from processes import cpu_seconds, descriptors, family_of, machine_cpu_seconds, memory_bytes, settled_cpu_seconds
from stage import Stage, measured

Values = dict[str, float]


@dataclass(frozen=True)
class Load:
    """One way of loading a proxy."""

    name: str
    title: str
    measure: Callable[[Stage], Values]
    # Column heading and the value under it, in order. The first is the one to judge by.
    columns: tuple[tuple[str, str], ...]
    # Values of which dislocate's share of the peer's is printed.
    compared: tuple[str, ...]
    # Whether the direct path, without a proxy, has anything to show.
    direct: bool
    # Seconds a sample takes besides the measured time; only for the estimate at the start.
    overhead: float
    # Measured times in a sample, likewise.
    parts: float = 1
    protocol: str = "tcp"
    # Whether it offers rates that `udp.calibrate` has to find first.
    calibrated: bool = False


@dataclass
class Usage:
    """Processor time over a block."""

    proxy: float = 0
    machine: float = 0


@contextlib.contextmanager
def usage(proxy: int) -> Iterator[Usage]:
    """Measures what the proxy and the machine spend during the block and until the proxy is quiet again."""
    spent = Usage()
    proxy_before = cpu_seconds(proxy) if proxy else 0
    machine_before = machine_cpu_seconds()
    yield spent
    spent.machine = machine_cpu_seconds() - machine_before
    spent.proxy = settled_cpu_seconds(proxy) - proxy_before if proxy else 0


def bulk(direction: str, streams: int) -> Callable[[Stage], Values]:
    """Streams that move as much as they can, in one direction."""

    def measure(stage: Stage) -> Values:
        options = stage.options
        kind = "source" if direction == "down" else "sink"
        threads = min(options.bulk_load_threads, streams)
        aim = {"direction": direction, "streams": streams, "seconds": options.seconds, "threads": threads}
        with stage.backend(kind, threads), stage.proxy() as proxy, usage(proxy) as spent:
            seen = stage.client("bulk", **aim)
        gigabytes = max(seen["bytes"], 1) / 1e9
        return {
            "cpu": spent.proxy / gigabytes,
            "machine": spent.machine / gigabytes,
            "rate": gigabytes / seen["seconds"],
            "errors": seen["errors"],
        }

    return measure


def small(command: str, sources: bool = False, **arguments: object) -> Callable[[Stage], Values]:
    """Requests or connections of 64 bytes each way."""

    def measure(stage: Stage) -> Values:
        extra = {"sources": stage.sources} if sources else {}
        with stage.backend("echo"), stage.proxy() as proxy, usage(proxy) as spent:
            seen = stage.client(command, seconds=stage.options.seconds, **arguments, **extra)
        operations = max(seen["operations"], 1)
        return {
            "cpu": spent.proxy / operations * 1e6,
            "machine": spent.machine / operations * 1e6,
            "rate": operations / seen["seconds"] / 1e3,
            "p50": seen["p50_us"],
            "p99": seen["p99_us"],
            "p999": seen["p999_us"],
            "errors": seen["errors"],
        }

    return measure


def idle(stage: Stage) -> Values:
    """Memory and descriptors of connections that rest after one exchange."""
    count = min(IDLE_CONNECTIONS, stage.setup.connections)
    with stage.backend("echo"), stage.proxy() as proxy:
        settled_cpu_seconds(proxy)
        empty_bytes, empty_descriptors = memory_bytes(proxy), descriptors(proxy)
        command = stage.client_command("idle", connections=count, sources=stage.sources)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            try:
                seen = measured(client.stdout.readline() if client.stdout else "", "")
                settled_cpu_seconds(proxy)
                full_bytes, full_descriptors = memory_bytes(proxy), descriptors(proxy)
            finally:
                # Closing its input, which leaving the block does, is what ends it.
                client.communicate()
    held = max(seen["operations"], 1)
    return {
        "memory": (full_bytes - empty_bytes) / held / 1024,
        "descriptors": (full_descriptors - empty_descriptors) / held,
        "empty": empty_bytes / 2**20,
        "held": held,
        "errors": seen["errors"],
    }


def startup(stage: Stage) -> Values:
    """From spawning the proxy to the first byte through it; the middle one of three."""
    if stage.peer is None:
        return {}
    tries: list[Values] = []
    with stage.backend("echo"):
        stage.peer.write(stage.setup, stage.backends)
        for _ in range(3):
            command = [str(stage.options.load), "startup", "--target", stage.targets, "--timeout", "10", "--"]
            done = subprocess.run(
                command + stage.peer.command(stage.setup), capture_output=True, text=True, timeout=60, check=False
            )
            tries.append(measured(done.stdout, done.stderr))
    return {
        "startup": statistics.median(each["startup_ms"] for each in tries),
        "errors": sum(each["errors"] for each in tries),
    }


def reload(stage: Stage) -> Values:
    """Ten reloads, each exchanging two of six backends, under new connections and long-lived ones."""
    if stage.peer is None:
        return {}
    first, second = stage.backends[:6], [*stage.backends[:4], *stage.backends[6:]]
    seconds = RELOADS * RELOAD_INTERVAL + 1
    clients = [
        stage.client_command("requests", connections=16, rate=500, seconds=seconds),
        stage.client_command("short", sources=stage.sources, concurrency=128, rate=1000, seconds=seconds),
    ]
    with stage.backend("echo") as log, stage.proxy(first, reloadable=True) as proxy:
        before = memory_bytes(proxy)
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in clients]
        try:
            for turn in range(RELOADS):
                time.sleep(RELOAD_INTERVAL)
                stage.peer.reload(stage.setup, first if turn % 2 else second, proxy)
            time.sleep(RELOAD_INTERVAL)
            after, processes = memory_bytes(proxy), len(family_of(proxy))
            requests, short = (measured(client.communicate(timeout=30)[0], "") for client in started)
        finally:
            for client in started:
                client.kill()
                client.wait()
    accepted: dict[str, int] = json.loads(log.read_text().splitlines()[-1])
    taken_up = all(accepted[str(backend)] > 0 for backend in stage.backends[6:])
    return {
        "failed": short["errors"],
        "broken": requests["errors"],
        "connections": short["operations"],
        "worst": max(short["max_us"], requests["max_us"]) / 1e3,
        "p99": short["p99_us"] / 1e3,
        "grown": (after - before) / 2**20,
        "processes": processes,
        # A proxy that ignores the reload would fail nothing.
        "errors": 0 if taken_up else 1,
    }


BULK_COLUMNS = (("proxy CPU s/GB", "cpu"), ("GB/s", "rate"), ("machine CPU s/GB", "machine"), ("errors", "errors"))


def _bulk(direction: str, streams: int) -> Load:
    way = "Download" if direction == "down" else "Upload"
    title = f"{way}, {streams} stream{'s' if streams > 1 else ''}"
    columns, compared = BULK_COLUMNS, ("cpu", "rate")
    return Load(f"{direction}-{streams}", title, bulk(direction, streams), columns, compared, True, 0.15)


def _small_columns(unit: str, rate: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"proxy CPU µs/{unit}", "cpu"),
        (f"1,000 {rate}/s", "rate"),
        ("p50 µs", "p50"),
        ("p99 µs", "p99"),
        ("p99.9 µs", "p999"),
        (f"machine CPU µs/{unit}", "machine"),
        ("errors", "errors"),
    )


LOADS = [
    _bulk("down", 1),
    _bulk("down", 16),
    _bulk("up", 1),
    _bulk("up", 16),
    Load(
        "requests",
        "64 bytes there and back on 64 connections, closed loop",
        small("requests", connections=64),
        _small_columns("request", "requests"),
        ("cpu", "rate"),
        True,
        0.15,
    ),
    Load(
        "requests-10k",
        "The same at 10,000 requests a second",
        small("requests", connections=64, rate=10_000),
        _small_columns("request", "requests"),
        ("cpu", "p50", "p99"),
        True,
        0.15,
    ),
    Load(
        "short",
        "Short connections (connect, 64 bytes each way, close), 32 at a time",
        small("short", sources=True, concurrency=32),
        _small_columns("connection", "connections"),
        ("cpu", "rate"),
        True,
        0.15,
    ),
    Load(
        "idle",
        "Idle connections after one exchange",
        idle,
        (
            ("memory KiB/connection", "memory"),
            ("descriptors/connection", "descriptors"),
            ("memory before MiB", "empty"),
            ("connections held", "held"),
            ("errors", "errors"),
        ),
        ("memory",),
        False,
        2.0,
        0,
    ),
    Load(
        "startup",
        "From starting the process to the first byte through it",
        startup,
        (("ms", "startup"), ("errors", "errors")),
        ("startup",),
        False,
        0.2,
        0,
    ),
    Load(
        "reload",
        "Ten reloads in 2.5 seconds, each exchanging two of six backends",
        reload,
        (
            ("connections failed", "failed"),
            ("long-lived ones broken", "broken"),
            ("worst wait ms", "worst"),
            ("p99 of a connection ms", "p99"),
            ("memory grown MiB", "grown"),
            ("processes at the end", "processes"),
            ("reloads without effect", "errors"),
        ),
        (),
        False,
        3.6,
        0,
    ),
]

IDLE_CONNECTIONS = 5_000
RELOADS = 10
RELOAD_INTERVAL = 0.25
