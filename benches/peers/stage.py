"""One sample's surroundings: addresses nobody used lately, backends, and a proxy between them and the clients."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from peers import Address, Peer, Setup
from processes import Failed, limit_descriptors, running, wait_until


@dataclass(frozen=True)
class Options:
    """What holds for the whole run."""

    load: Path
    work: Path
    seconds: float
    threads: int
    bulk_load_threads: int
    descriptors: int
    # UDP flows are held by the ten thousand.
    udp_descriptors: int
    port: int
    # UDP: the highest rate a peer carries, in round trips a second, by the size of a datagram; see `udp.calibrate`.
    carried: dict[int, float] = field(default_factory=dict)


@dataclass
class Stage:
    """One sample. Its addresses are its own, so that ports the samples before it left in TIME_WAIT do not count."""

    options: Options
    # The proxy, or None for the direct path.
    peer: Peer | None
    number: int
    protocol: str = "tcp"
    # UDP: flows end after one answer.
    brief: bool = False

    @property
    def setup(self) -> Setup:
        """What the proxy's configuration is filled from."""
        descriptors = self.options.udp_descriptors if self.protocol == "udp" else self.options.descriptors
        return Setup(
            self.directory, self._address(0, 100), self.options.threads, descriptors, self.protocol, self.brief
        )

    @property
    def directory(self) -> Path:
        """Configuration and logs; the last sample's stay for inspection."""
        return self.options.work / (self.peer.name if self.peer else "direct")

    @property
    def backends(self) -> list[Address]:
        """Enough addresses that a proxy does not run out of ports towards them."""
        return [self._address(0, 1 + index) for index in range(BACKENDS)]

    @property
    def targets(self) -> str:
        """Where clients connect."""
        return ",".join(map(str, [self.setup.listen] if self.peer else self.backends))

    @property
    def sources(self) -> str:
        """Where clients connect from when they connect often."""
        return ",".join(self._address(1, 1 + index).host for index in range(SOURCES))

    @contextlib.contextmanager
    def backend(self, kind: str, threads: int = 1) -> Iterator[Path]:
        """Runs the backends; after the block their log ends with the connections each address has accepted."""
        with self._serving("serve", "--kind", kind, "--threads", str(threads)) as log:
            yield log

    @contextlib.contextmanager
    def udp_backend(self, segment: int | None = None) -> Iterator[Path]:
        """The same for UDP: an echo that takes and gives trains of segments whole, if their size is given."""
        with self._serving("udp-serve", *(["--segment", str(segment)] if segment else [])) as log:
            yield log

    @contextlib.contextmanager
    def _serving(self, *words: str) -> Iterator[Path]:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        log = self.directory / "backend.log"
        command = [str(self.options.load), *words, "--addresses", ",".join(map(str, self.backends))]
        with running(command, log, stdin=subprocess.PIPE) as process:
            wait_until(lambda: log.read_text().startswith("ready"), 5, "start of the backends")
            yield log
            if process.stdin:
                process.stdin.close()
            process.wait(timeout=5)

    @contextlib.contextmanager
    def proxy(self, backends: list[Address] | None = None, reloadable: bool = False) -> Iterator[int]:
        """Runs the proxy, or nothing for the direct path (0), and waits until something comes back through it."""
        if self.peer is None:
            yield 0
            return
        self.peer.write(self.setup, backends or self.backends)
        limit_descriptors(self.setup.descriptors)
        command = self.peer.reloadable(self.setup) if reloadable else self.peer.command(self.setup)
        with running(command, self.directory / "proxy.log") as process:
            try:
                ready = self._answers if self.protocol == "udp" else self._accepts
                wait_until(lambda: process.poll() is not None or ready(), 10, f"start of {self.peer.name}")
                if process.poll() is not None:
                    raise Failed(f"{self.peer.name} ended with {process.returncode}")
            except Failed as failed:
                raise Failed(f"{failed}; its log: {(self.directory / 'proxy.log').read_text()[-2000:]}") from None
            yield process.pid

    def client(self, command: str, **arguments: object) -> dict[str, float]:
        """Runs one client to its end; what it measured."""
        done = subprocess.run(
            self.client_command(command, **arguments), capture_output=True, text=True, timeout=120, check=False
        )
        return measured(done.stdout, done.stderr)

    def client_command(self, command: str, **arguments: object) -> list[str]:
        """The command line of a client, aimed at this sample's targets."""
        words = [str(self.options.load), command, "--targets", self.targets]
        for name, value in arguments.items():
            words += [f"--{name}", str(value)]
        return words

    def _address(self, block: int, host: int) -> Address:
        return Address(f"127.{self.number % 250 + 2}.{block}.{host}", self.options.port)

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self.setup.listen.host, self.setup.listen.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _answers(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.05)
            try:
                client.connect((self.setup.listen.host, self.setup.listen.port))
                client.send(b"?")
                return client.recv(2) == b"?"
            except OSError:
                return False


def measured(output: str, errors: str) -> dict[str, float]:
    """The line of JSON that every client prints."""
    lines = output.splitlines()
    if not lines:
        raise Failed(f"a client printed nothing; {errors.strip()}")
    values: dict[str, float] = json.loads(lines[-1])
    return values


BACKENDS = 8
SOURCES = 32
