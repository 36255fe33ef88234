"""What one would write in an afternoon: an aiohttp server and an aiohttp client, a token or a signature in between.

    python plain_proxy.py PORT UPSTREAM token|sdk

The yardstick of the quick measurement, not a gateway: no limits, no deadlines, no log, no metrics, no retries.
"""

import asyncio
import hashlib
import hmac
import os
import sys
import time
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, StreamReader, TCPConnector, web

NOT_PASSED = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}


class Proxy:
    def __init__(self, upstream: str, kind: str) -> None:
        self.upstream = upstream
        self.host = upstream.removeprefix("http://")
        self.kind = kind
        self.key, self.secret, self.token = (os.environ["BENCH_" + name] for name in ("KEY", "SECRET", "TOKEN"))

    async def session(self, app: web.Application) -> AsyncIterator[None]:
        connector = TCPConnector(limit=0)
        async with ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=None)
        ) as self.client:
            yield

    def signature(self, method: str, path: str, body: bytes) -> dict[str, str]:
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        canonical = f"{method}\n{path}/\n\nhost:{self.host}\nx-sdk-date:{date}\n\nhost;x-sdk-date\n{hashlib.sha256(body).hexdigest()}"
        text = f"SDK-HMAC-SHA256\n{date}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        return {
            "X-Sdk-Date": date,
            "Authorization": f"SDK-HMAC-SHA256 Access={self.key}, SignedHeaders=host;x-sdk-date, Signature={signature}",
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_PASSED}
        if self.kind == "sdk":
            body: bytes | StreamReader = (data := await request.read())
            headers |= self.signature(request.method, request.path, data)
        else:
            headers["X-Auth-Token"] = self.token
            headers["Content-Length"] = str(request.content_length or 0)
            body = request.content
        async with self.client.request(
            request.method, self.upstream + request.path_qs, headers=headers, data=body
        ) as got:
            kept = {
                name: value
                for name, value in got.headers.items()
                if name.lower() not in NOT_PASSED - {"content-length"}
            }
            answer = web.StreamResponse(status=got.status, headers=kept)
            await answer.prepare(request)
            async for chunk in got.content.iter_any():
                await answer.write(chunk)
            await answer.write_eof()
            return answer


def main() -> None:
    port, upstream, kind = sys.argv[1:]
    try:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    proxy = Proxy(upstream, kind)
    app = web.Application(client_max_size=1 << 30)
    app.cleanup_ctx.append(proxy.session)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, loop=loop, backlog=4096)


if __name__ == "__main__":
    main()
