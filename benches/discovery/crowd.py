"""Backends in great numbers, in one process: one socket on every address of 127/8 for each port.

`crowd.py PORT…` prints `ready` and answers each connection with the address and port that it was made to, then waits for
its end. A line on its standard input is a port to close, as a process does that ends; its end is the end of all.
"""

import asyncio
import socket
import sys


class Answering(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        host, port = transport.get_extra_info("sockname")[:2]
        transport.write(f"{host}:{port}\n".encode())


def listening(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("0.0.0.0", port))
    bound.listen(4096)
    return bound


async def main() -> None:
    loop = asyncio.get_running_loop()
    servers = {port: await loop.create_server(Answering, sock=listening(port)) for port in map(int, sys.argv[1:])}
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        servers[int(line)].close()
        print("closed", flush=True)


asyncio.run(main())
