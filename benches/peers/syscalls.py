"""System calls per operation, counted by strace on an otherwise idle proxy."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from processes import PROC, Failed, family_of, settled_cpu_seconds, stop, wait_until
from stage import Stage

OPERATIONS = 200


def count(stage: Stage, command: str, **arguments: object) -> dict[str, float]:
    """Calls per operation by name, over 200 operations one after the other."""
    table = stage.directory / "strace"
    backend = stage.udp_backend() if stage.protocol == "udp" else stage.backend("echo")
    with backend, stage.proxy() as proxy:
        settled_cpu_seconds(proxy)
        family = family_of(proxy)
        words = ["strace", "-f", "-c", "-o", str(table)]
        for pid in family:
            words += ["-p", str(pid)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as strace:
            try:
                wait_until(lambda: all(map(_traced, family)), 5, "attaching strace")
                seen = stage.client(command, count=OPERATIONS, seconds=30, **arguments)
                settled_cpu_seconds(proxy)
                strace.send_signal(signal.SIGINT)
                strace.wait(timeout=10)
            finally:
                stop(strace)
    if seen["operations"] != OPERATIONS:
        raise Failed(f"{seen['operations']:.0f} of {OPERATIONS} operations worked")
    return {name: calls / OPERATIONS for name, calls in parse(table).items()}


def requests(stage: Stage) -> dict[str, float]:
    """Requests of 64 bytes on one connection; opening it is spread over them."""
    return count(stage, "requests", connections=1)


def short(stage: Stage) -> dict[str, float]:
    """Short connections, one at a time."""
    return count(stage, "short", concurrency=1, sources=stage.sources)


def udp_one(stage: Stage) -> dict[str, float]:
    """Datagrams there and back, one at a time."""
    return count(stage, "udp-exchange", flows=1, window=1, bytes=64)


def udp_many(stage: Stage) -> dict[str, float]:
    """Eight at a time on one flow: what a proxy takes in batches shows here."""
    return count(stage, "udp-exchange", flows=1, window=8, bytes=64)


def report(title: str, counted: Sequence[tuple[str, dict[str, float]]]) -> str:
    """One table: the sum, then what it is made of, in descending order."""
    lines = [f"### System calls per {title}", "", "| | all | of which |", "| --- | ---: | --- |"]
    for subject, calls in counted:
        common = sorted(calls.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {number:.1f}" for name, number in common if number >= 0.05)
        lines.append(f"| {subject} | {sum(calls.values()):.1f} | {parts} |")
    return "\n".join(lines) + "\n"


COUNTED = (
    ("tcp", "short connection", short),
    ("tcp", "request", requests),
    ("udp", "UDP round trip (two datagrams), one at a time", udp_one),
    ("udp", "UDP round trip (two datagrams), eight at a time on one flow", udp_many),
)


def _traced(pid: int) -> bool:
    statuses = [(task / "status").read_text() for task in (PROC / str(pid) / "task").iterdir()]
    return all("TracerPid:\t0" not in status for status in statuses)


def parse(table: Path) -> dict[str, int]:
    """Reads strace's summary: share, seconds, microseconds a call, calls, errors (may be blank), name."""
    calls: dict[str, int] = {}
    for line in table.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[0][0].isdigit() and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3])
    return calls
