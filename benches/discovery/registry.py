"""A registry that changes as fast as it is told to: services of Consul, asked by questions that wait.

`registry.py PORT SERVICES INSTANCES RATE` serves them and prints `ready`; every service has INSTANCES instances. RATE
changes a second of one instance's weight each begin and end with `on` and `off` on its standard input, whose end is the end
of all. For each `off` it prints the changes that were made and the answers that were given since it began, as JSON.
"""

import asyncio
import json
import os
import sys

PORT, SERVICES, INSTANCES, RATE = map(int, sys.argv[1:])
TICK_S = 0.005


class Service:
    """One service, and who waits for its next change."""

    def __init__(self, number: int) -> None:
        self.number, self.index = number, 1
        self.weights = [10] * INSTANCES
        self.waiting: list[asyncio.Transport] = []

    def answer(self) -> bytes:
        body = json.dumps([self._instance(n, weight) for n, weight in enumerate(self.weights)]).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: {self.index}\r\n"
        return (head + f"X-Consul-KnownLeader: true\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body

    def _instance(self, number: int, weight: int) -> dict[str, object]:
        address = f"127.{self.number // 250 + 10}.{self.number % 250}.{number + 1}"
        return {
            "Node": {"Node": f"node-{self.number}-{number}", "Address": address, "Datacenter": "dc1"},
            "Service": {"ID": f"{self.number}-{number}", "Port": 80, "Weights": {"Passing": weight, "Warning": 1}},
            "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
        }

    def change(self, number: int) -> int:
        """Returns how many answers that gives."""
        self.index += 1
        self.weights[number] = 21 - self.weights[number]
        waiting, self.waiting = self.waiting, []
        if waiting:
            answer = self.answer()
            for each in waiting:
                each.write(answer)
        return len(waiting)


class Asked(asyncio.Protocol):
    """A connection, on which one question comes after another."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.read = transport, b""

    def data_received(self, data: bytes) -> None:
        self.read += data
        while b"\r\n\r\n" in self.read:
            head, _, self.read = self.read.partition(b"\r\n\r\n")
            path, _, query = head.split(b" ", 2)[1].decode().partition("?")
            service = services[int(path.rpartition("-")[2])]
            known = [part for part in query.split("&") if part.startswith("index=")]
            if known and int(known[0][6:]) >= service.index:
                service.waiting.append(self.transport)
            else:
                self.transport.write(service.answer())

    def connection_lost(self, _error: Exception | None) -> None:
        for service in services:
            if self.transport in service.waiting:
                service.waiting.remove(self.transport)


async def storm(counts: dict[str, int]) -> None:
    loop = asyncio.get_running_loop()
    begun, turn = loop.time(), 0
    while True:
        due = int((loop.time() - begun) * RATE)
        while turn < due:
            counts["answers"] += services[turn % SERVICES].change(turn // SERVICES % INSTANCES)
            counts["changes"] += 1
            turn += 1
        await asyncio.sleep(TICK_S)


async def main() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(Asked, "127.0.0.1", PORT, backlog=4096)
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    counts, running = {"changes": 0, "answers": 0}, None
    while line := await lines.readline():
        if line == b"on\n":
            running = asyncio.create_task(storm(counts))
        elif running:
            running.cancel()
            print(json.dumps(counts), flush=True)
            counts = {"changes": 0, "answers": 0}


# It is to take only what is left over: what it takes is not what is measured.
os.nice(19)
services = [Service(number) for number in range(SERVICES)]
asyncio.run(main())
