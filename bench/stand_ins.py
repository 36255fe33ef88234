"""Load generator and stub where there is no C compiler: the small workload alone, and at a fraction of the pace.

python stand_ins.py stub
python stand_ins.py load -p PORT -u PATH -c CONNECTIONS -w WARM_SECONDS -d SECONDS
"""

import argparse
import asyncio
import json
import sys
import time

_BODY = b'{"prompt":"' + b"x" * 287 + b'"}'
_ANSWER_FIELDS = (
    b"Server: stub\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nX-Request-Id: 0123456789abcdef0123456789abcdef\r\n"
    b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nVary: Accept-Encoding\r\n"
)


def _answer(content: bytes, kind: bytes = b"application/json") -> bytes:
    length = str(len(content)).encode()
    return (
        b"HTTP/1.1 200 OK\r\n"
        + _ANSWER_FIELDS
        + b"Content-Type: "
        + kind
        + b"\r\nContent-Length: "
        + length
        + b"\r\n\r\n"
        + content
    )


_FAST = _answer(b'{"answer":"' + b"x" * 1011 + b'"}')


class _Messages(asyncio.Protocol):
    """Cuts what arrives into messages of a head and a body of known length."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            at = self.buffer.lower().find(b"content-length:", 0, end)
            length = int(self.buffer[at + 15 : self.buffer.index(b"\r\n", at)]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            head = bytes(self.buffer[: end + 4])
            del self.buffer[: end + 4 + length]
            self.message(head)

    def message(self, head: bytes) -> None:
        """Answer one message; each stand-in says how."""
        raise NotImplementedError  # this class only cuts the stream into messages


class _Stub(_Messages):
    def message(self, head: bytes) -> None:
        echo = b"/echo" in head[: head.index(b"\r\n")]
        self.transport.write(_answer(head, b"text/plain") if echo else _FAST)


async def stub() -> None:
    server = await asyncio.get_running_loop().create_server(_Stub, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class _Caller(_Messages):
    def __init__(self, request: bytes, latencies: list[float]) -> None:
        super().__init__()
        self._request = request
        self._latencies = latencies
        self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._send()

    def message(self, head: bytes) -> None:
        if head.startswith(b"HTTP/1.1 200"):
            self._latencies.append(time.monotonic() - self._since)
        else:
            self.failed += 1
        self._send()

    def _send(self) -> None:
        self._since = time.monotonic()
        self.transport.write(self._request)


async def load(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    head = (
        f"POST {options.u} HTTP/1.1\r\nHost: 127.0.0.1:{options.p}\r\nUser-Agent: load/1\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n"
    )
    latencies: list[float] = []
    request = head.encode() + _BODY
    made = [
        await loop.create_connection(lambda: _Caller(request, latencies), "127.0.0.1", options.p)
        for _ in range(options.c)
    ]
    callers = [caller for _, caller in made]
    await asyncio.sleep(options.w)
    latencies.clear()
    failed = sum(caller.failed for caller in callers)
    print("begin", flush=True)
    began = time.monotonic()
    await asyncio.sleep(options.d)
    took = sorted(latencies)
    figures = {
        "ok": len(took),
        "failed": sum(caller.failed for caller in callers) - failed,
        "unfinished": 0,
        "seconds": time.monotonic() - began,
        "p50_us": took[len(took) // 2] * 1e6 if took else 0,
        "p99_us": took[len(took) * 99 // 100] * 1e6 if took else 0,
    }
    print(json.dumps(figures), flush=True)


def main() -> None:
    if sys.argv[1] == "stub":
        asyncio.run(stub())
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", type=int)
    parser.add_argument("-u")
    parser.add_argument("-c", type=int)
    parser.add_argument("-w", type=float)
    parser.add_argument("-d", type=float)
    parser.add_argument("-t", type=float)
    asyncio.run(load(parser.parse_args(sys.argv[2:])))


if __name__ == "__main__":
    main()
