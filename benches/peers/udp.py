"""The loads over UDP."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from loads import Load, Values, usage
from peers import Peer
from processes import Failed, descriptors, kernel_bytes, memory_bytes, settled_cpu_seconds
from stage import Options, Stage, measured

FLOWS = 64
WINDOW = 8
SIZES = (64, 1200)
SEGMENTS = 16

# Offered rates beside the highest that a peer carries. Each is a fifth above the one before, so the rate that is to be
# carried where a peer just manages is the next one, also when the peers were misjudged by one.
STEP = 1.2
STEPS = tuple(STEP**power for power in range(-3, 3))
# What loses less than this, in per cent, is carried.
CARRIED = 0.1
LOW_LOAD = 0.01

BRIEF_FLOWS = 128
IDLE_FLOWS = 20_000
# One a flow, and some for the rest.
DESCRIPTORS = IDLE_FLOWS + 5_000


def calibrate(subjects: Iterable[Peer | None], options: Options, numbers: Iterator[int]) -> None:
    """Finds out what the peers carry here, by size; without peers, what dislocate or the direct path does."""
    peers = list(subjects)
    judges = [peer for peer in peers if peer and peer.name != "dislocate"] or peers
    for size in SIZES:
        for peer in judges:
            stage = Stage(options, peer, next(numbers), "udp")
            name = peer.name if peer else "direct"
            try:
                with stage.udp_backend(), stage.proxy():
                    rate = climb(functools.partial(_lost_at, stage, size))
            except (Failed, OSError, subprocess.TimeoutExpired) as failed:
                print(f"calibration {size} bytes {name}: LOST: {failed}", file=sys.stderr)
                continue
            print(f"calibration {size} bytes {name}: carries {rate:,.0f} round trips/s", file=sys.stderr)
            options.carried[size] = max(rate, options.carried.get(size, 0))


def climb(lost: Callable[[float], float]) -> float:
    """The highest of ascending rates that is carried, given the per cent lost at a rate; the lowest, if none is."""
    rate = LOWEST
    while rate < HIGHEST and any(lost(rate * STEP) < CARRIED for _ in range(TRIES)):
        rate *= STEP
    return rate


def _lost_at(stage: Stage, size: int, rate: float) -> float:
    return lost_percent(_offer(stage, size, rate, CLIMB_SECONDS))


def closed(size: int) -> Callable[[Stage], Values]:
    """A window of datagrams on every flow."""

    def measure(stage: Stage) -> Values:
        with stage.udp_backend(), stage.proxy() as proxy, usage(proxy) as spent:
            seen = stage.client("udp-exchange", flows=FLOWS, window=WINDOW, bytes=size, seconds=stage.options.seconds)
        return _common(seen, spent.proxy, spent.machine, datagrams=2)

    return measure


def trains(stage: Stage) -> Values:
    """Datagrams that leave in trains and are one for the kernel until somebody takes them apart."""
    size = SIZES[-1]
    with stage.udp_backend(size), stage.proxy() as proxy, usage(proxy) as spent:
        seen = stage.client(
            "udp-exchange", flows=16, window=2, bytes=size, segments=SEGMENTS, seconds=stage.options.seconds
        )
    values = _common(seen, spent.proxy, spent.machine, datagrams=2)
    gigabytes = seen["bytes"] / 1e9
    return {**values, "gigabytes": gigabytes / seen["seconds"], "cpu_gb": spent.proxy / gigabytes}


def low(size: int) -> Callable[[Stage], Values]:
    """A hundredth of what a peer carries: latency without a queue anywhere."""

    def measure(stage: Stage) -> Values:
        rate = _carried(stage, size) * LOW_LOAD
        with stage.udp_backend(), stage.proxy() as proxy, usage(proxy) as spent:
            seen = _offer(stage, size, rate, stage.options.seconds)
        return _common(seen, spent.proxy, spent.machine, datagrams=2)

    return measure


def rates(size: int) -> Callable[[Stage], Values]:
    """Fixed rates, one after the other through the same proxy."""

    def measure(stage: Stage) -> Values:
        top, seconds = _carried(stage, size), stage.options.seconds / 2
        values: Values = {"carried": top / 1e3, "errors": 0}
        with stage.udp_backend(), stage.proxy() as proxy:
            for index, step in enumerate(STEPS):
                with usage(proxy) as spent:
                    seen = _offer(stage, size, top * step, seconds)
                values[f"lost{index}"] = lost_percent(seen)
                values[f"cpu{index}"] = spent.proxy / max(seen["operations"], 1) / 2 * 1e6
                values["errors"] += seen["errors"]
        return values

    return measure


def brief(stage: Stage) -> Values:
    """Flows of one datagram each way."""
    stage = replace(stage, brief=True)
    with stage.udp_backend(), stage.proxy() as proxy, usage(proxy) as spent:
        seen = stage.client("udp-flows", concurrency=BRIEF_FLOWS, seconds=stage.options.seconds)
    return _common(seen, spent.proxy, spent.machine, datagrams=1)


def idle(stage: Stage) -> Values:
    """Memory of flows that rest after one exchange."""
    count = min(IDLE_FLOWS, stage.setup.connections)
    with stage.udp_backend(), stage.proxy() as proxy:
        settled_cpu_seconds(proxy)
        before = memory_bytes(proxy), descriptors(proxy), kernel_bytes()
        command = stage.client_command("udp-flows", concurrency=32, count=count, seconds=30, hold="yes")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            try:
                seen = measured(client.stdout.readline() if client.stdout else "", "")
                settled_cpu_seconds(proxy)
                after = memory_bytes(proxy), descriptors(proxy), kernel_bytes()
            finally:
                # Closing its input, which leaving the block does, is what ends it.
                client.communicate()
    held = seen["operations"]
    if not held:
        raise Failed("not one answer")
    memory, opened, kernel = ((late - early) / held for early, late in zip(before, after, strict=True))
    return {
        "memory": memory / 1024,
        "kernel": kernel / 1024,
        "descriptors": opened,
        "empty": before[0] / 2**20,
        "held": held,
        "lost": lost_percent(seen),
        "errors": seen["errors"],
    }


def _offer(stage: Stage, size: int, rate: float, seconds: float) -> dict[str, float]:
    """The whole timetable, also when that takes longer."""
    count = int(rate * seconds)
    length = seconds + GRACE
    seen = stage.client("udp-exchange", flows=FLOWS, bytes=size, rate=rate, count=count, seconds=length)
    return of_planned(seen, count)


def of_planned(seen: dict[str, float], count: int) -> dict[str, float]:
    """What a client saw, where everything without an answer is lost, also what it could not send in time."""
    return {**seen, "lost": count - seen["operations"]}


def _carried(stage: Stage, size: int) -> float:
    if size not in stage.options.carried:
        raise Failed("no proxy came through the calibration")
    return stage.options.carried[size]


def lost_percent(seen: dict[str, float]) -> float:
    """How much of what was sent, or was to be sent, got no answer."""
    return seen["lost"] / max(seen["operations"] + seen["lost"], 1) * 100


def _common(seen: dict[str, float], proxy: float, machine: float, datagrams: int) -> Values:
    """Processor time for each of so many units that an answered datagram stands for."""
    answered = seen["operations"]
    if not answered:
        raise Failed("not one answer")
    return {
        "cpu": proxy / answered / datagrams * 1e6,
        "machine": machine / answered / datagrams * 1e6,
        "rate": answered / seen["seconds"] / 1e3,
        "p50": seen["p50_us"],
        "p99": seen["p99_us"],
        "p999": seen["p999_us"],
        "lost": lost_percent(seen),
        "errors": seen["errors"],
    }


CLIMB_SECONDS = 0.4
# How far behind its timetable the client may fall.
GRACE = 0.5
LOWEST, HIGHEST = 10_000.0, 2_000_000.0
# A moment's disturbance is not the proxy's limit.
TRIES = 3

DATAGRAM_COLUMNS = (
    ("proxy CPU µs/datagram", "cpu"),
    ("1,000 round trips/s", "rate"),
    ("p50 µs", "p50"),
    ("p99 µs", "p99"),
    ("p99.9 µs", "p999"),
    ("machine CPU µs/datagram", "machine"),
    ("lost %", "lost"),
    ("errors", "errors"),
)


def _closed(size: int) -> Load:
    title = f"UDP, {size} bytes there and back, {FLOWS} flows with {WINDOW} on the way each"
    return Load(f"udp-{size}", title, closed(size), DATAGRAM_COLUMNS, ("cpu", "rate"), True, 0.2, 1, "udp")


def _rates(size: int) -> Load:
    columns = (
        ("×1 is 1,000 round trips/s", "carried"),
        *((f"lost % ×{step:.2f}", f"lost{index}") for index, step in enumerate(STEPS)),
        *((f"CPU µs ×{step:.2f}", f"cpu{index}") for index, step in enumerate(STEPS)),
        ("errors", "errors"),
    )
    title = f"UDP, {size} bytes at fixed rates beside the highest that a peer carried: loss, and proxy CPU a datagram"
    return Load(
        f"udp-rates-{size}", title, rates(size), columns, ("cpu0", "cpu3"), False, 0.7, len(STEPS) / 2, "udp", True
    )


def _low(size: int) -> Load:
    title = f"UDP, {size} bytes at {LOW_LOAD:.0%} of that rate"
    return Load(f"udp-low-{size}", title, low(size), DATAGRAM_COLUMNS, ("cpu", "p50", "p99"), True, 0.2, 1, "udp", True)


LOADS = [
    *map(_closed, SIZES),
    *map(_rates, SIZES),
    *map(_low, SIZES),
    Load(
        "udp-trains",
        f"UDP, trains of {SEGMENTS} × {SIZES[-1]} bytes there and back (UDP_SEGMENT, UDP_GRO), 16 flows with 2 each",
        trains,
        (("proxy CPU µs/datagram", "cpu"), ("proxy CPU s/GB", "cpu_gb"), ("GB/s", "gigabytes"), *DATAGRAM_COLUMNS[1:]),
        ("cpu", "rate"),
        True,
        0.2,
        1,
        "udp",
    ),
    Load(
        "udp-brief",
        f"UDP, new flows of one datagram each way, {BRIEF_FLOWS} at a time",
        brief,
        (
            ("proxy CPU µs/flow", "cpu"),
            ("1,000 flows/s", "rate"),
            ("p50 µs", "p50"),
            ("p99 µs", "p99"),
            ("machine CPU µs/flow", "machine"),
            ("lost %", "lost"),
            ("errors", "errors"),
        ),
        ("cpu", "rate"),
        True,
        0.3,
        1,
        "udp",
    ),
    Load(
        "udp-idle",
        "UDP, idle flows after one exchange",
        idle,
        (
            ("memory KiB/flow", "memory"),
            ("of the kernel KiB/flow", "kernel"),
            ("descriptors/flow", "descriptors"),
            ("memory before MiB", "empty"),
            ("flows held", "held"),
            ("lost %", "lost"),
            ("errors", "errors"),
        ),
        ("memory",),
        False,
        2.5,
        0,
        "udp",
    ),
]
