"""Processes: starting, ending, and reading what they used from /proc."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A proxy, a backend or a client did not do its part; the sample is lost, the run goes on."""


@contextlib.contextmanager
def running(command: list[str], log: Path, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the length of a block. Ends with all of its descendants, also when the block fails."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=stdin, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the process to end, then ends what is left of its family."""
    family = {pid: _started(pid) for pid in family_of(process.pid)}
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
    # The start time tells a left-over from a stranger that was given its number.
    left = [pid for pid, started in family.items() if started is not None and _started(pid) == started]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: all(_started(pid) != family[pid] for pid in left), 5, "end of what was killed")


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Returns once the condition holds, or fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)


def family_of(root: int) -> list[int]:
    """A process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat_fields(int(entry.name))[1]), []).append(int(entry.name))
    family, rest = [], [root]
    while rest:
        pid = rest.pop()
        if (PROC / str(pid)).exists():
            family.append(pid)
        rest.extend(children.get(pid, []))
    return family


def cpu_seconds(root: int) -> float:
    """What the scheduler charged to every thread of the family. To the nanosecond, where stat counts in ticks."""
    total = 0
    for pid in family_of(root):
        with contextlib.suppress(OSError):
            for task in (PROC / str(pid) / "task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def settled_cpu_seconds(root: int) -> float:
    """The same, once the family has gone quiet: connections that just closed cost something too."""
    before = cpu_seconds(root)
    for _ in range(50):
        time.sleep(0.02)
        after = cpu_seconds(root)
        if after - before < 0.001:
            return after
        before = after
    return before


def machine_cpu_seconds() -> float:
    """Time all processors spent on anything but idling, interrupts and others' work included."""
    fields = [int(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / TICKS_PER_SECOND


@dataclass(frozen=True)
class Moment:
    """For telling how much of the machine others took since: a figure next to theirs is worth little."""

    time: float
    machine: float
    ours: float

    @staticmethod
    def now() -> Moment:
        """Counts what this process and the ended ones among its descendants have used."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return Moment(time.monotonic(), machine_cpu_seconds(), sum(each.ru_utime + each.ru_stime for each in used))

    def others_share(self) -> float:
        """Their part of all processor time since this moment. Interrupts are in it, a per cent or two."""
        now = Moment.now()
        others = (now.machine - self.machine) - (now.ours - self.ours)
        return max(0.0, others) / (now.time - self.time) / (os.cpu_count() or 1)


def memory_bytes(root: int) -> int:
    """Proportional set size: pages shared by several processes of the family count once."""
    total = 0
    for pid in family_of(root):
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def limit_descriptors(limit: int) -> None:
    """Sets what processes started from here may open, as far as this one may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, hard), hard))


def allow_descriptors(limit: int) -> int:
    """Raises what may be set above, which needs a privilege; what it is then, at most `limit`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < limit:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, limit))
            hard = limit
    return min(hard, limit)


def kernel_bytes() -> int:
    """Small objects of the kernel, sockets among them. Of the whole machine: what others do is in it."""
    for line in (PROC / "meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    return 0


def descriptors(root: int) -> int:
    """Open descriptors of the family."""
    total = 0
    for pid in family_of(root):
        with contextlib.suppress(OSError):
            total += len(os.listdir(PROC / str(pid) / "fd"))
    return total


def _stat_fields(pid: int) -> list[str]:
    # The name, in parentheses, may hold spaces; what follows it starts with the state.
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _started(pid: int) -> str | None:
    """When a process began, by which it is told apart; nothing once it has ended, reaped or not."""
    try:
        fields = _stat_fields(pid)
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
