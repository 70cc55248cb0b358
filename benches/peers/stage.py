"""One sample's surroundings: addresses nobody used lately, backends, and a proxy between them and the clients."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers import Address, Peer, Setup
from processes import Failed, running, wait_until


@dataclass(frozen=True)
class Options:
    """What holds for the whole run."""

    load: Path
    work: Path
    seconds: float
    threads: int
    bulk_load_threads: int
    descriptors: int
    port: int


@dataclass
class Stage:
    """One sample. Its addresses are its own, so that ports the samples before it left in TIME_WAIT do not count."""

    options: Options
    # The proxy, or None for the direct path.
    peer: Peer | None
    number: int

    @property
    def setup(self) -> Setup:
        """What the proxy's configuration is filled from."""
        return Setup(self.directory, self._address(0, 100), self.options.threads, self.options.descriptors)

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
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        log = self.directory / "backend.log"
        command = [str(self.options.load), "serve", "--kind", kind, "--threads", str(threads)]
        command += ["--addresses", ",".join(map(str, self.backends))]
        with running(command, log, stdin=subprocess.PIPE) as process:
            wait_until(lambda: log.read_text().startswith("ready"), 5, "start of the backends")
            yield log
            if process.stdin:
                process.stdin.close()
            process.wait(timeout=5)

    @contextlib.contextmanager
    def proxy(self, backends: list[Address] | None = None, reloadable: bool = False) -> Iterator[int]:
        """Runs the proxy, or nothing for the direct path (0), and waits until it accepts."""
        if self.peer is None:
            yield 0
            return
        self.peer.write(self.setup, backends or self.backends)
        command = self.peer.reloadable(self.setup) if reloadable else self.peer.command(self.setup)
        with running(command, self.directory / "proxy.log") as process:
            try:
                wait_until(lambda: process.poll() is not None or self._accepts(), 10, f"start of {self.peer.name}")
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


def measured(output: str, errors: str) -> dict[str, float]:
    """The line of JSON that every client prints."""
    lines = output.splitlines()
    if not lines:
        raise Failed(f"a client printed nothing; {errors.strip()}")
    values: dict[str, float] = json.loads(lines[-1])
    return values


BACKENDS = 8
SOURCES = 32
