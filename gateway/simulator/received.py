"""A request as it arrived: target and fields untouched, the body counted and hashed on the way."""

import asyncio
import hashlib
from dataclasses import dataclass

from aiohttp import web

from gateway.simulator.answers import Refused
from gateway.simulator.signature import values

Fields = tuple[tuple[bytes, bytes], ...]

# API Gateway user guide, "Error Codes": URI 32 KB, one header 32 KB, all of them 128 KB.
URI_BYTES = 32 * 1024
FIELD_BYTES = 32 * 1024
HEAD_BYTES = 128 * 1024

# Fields that open something; `_` is taken for `-`, as some servers do.
SECRET_FIELDS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "x-auth-token",
        "x-subject-token",
        "x-apig-appcode",
        "apikey",
        "x-api-key",
        "x-hw-id",
        "x-hw-appkey",
    }
)


@dataclass(frozen=True, slots=True)
class Head:
    """Method, raw target and raw fields."""

    method: str
    target: bytes
    fields: Fields

    @classmethod
    def of(cls, request: web.BaseRequest) -> "Head":
        """The head of an aiohttp request; an absolute-form target is reduced to its path and query."""
        target = request.raw_path.encode("utf-8", "surrogateescape")
        if not target.startswith(b"/") and b"://" in target:
            target = b"/" + target.split(b"://", 1)[1].partition(b"/")[2]
        return cls(request.method, target, tuple(request.raw_headers))

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("utf-8", "replace")

    def get(self, name: str) -> str | None:
        """The first value of a field, as text."""
        found = values(self.fields, name)
        return found[0].decode("utf-8", "replace") if found else None

    def names(self) -> list[str]:
        """Every field name, lower case, with ``-`` for ``_``; repeated fields repeat."""
        return [name.decode("latin-1").lower().replace("_", "-") for name, _ in self.fields]

    def masked(self) -> list[list[str]]:
        """The fields with what opens anything masked; of a signature its SignedHeaders stay readable."""
        return [[name.decode("latin-1"), _masked(name, value)] for name, value in self.fields]

    def check_sizes(self) -> None:
        """Refuse what API Gateway's nginx refuses before anything else.

        Raises:
            Refused: 414 or 494.
        """
        if len(self.target) > URI_BYTES:
            raise Refused(414, "APIG.0201", "Request URI too large.")
        sizes = [len(name) + len(value) for name, value in self.fields]
        if max(sizes, default=0) > FIELD_BYTES or sum(sizes) > HEAD_BYTES:
            raise Refused(494, "APIG.0201", "Request headers too large.")


@dataclass(frozen=True, slots=True)
class Body:
    """Size and hash of a body as received; ``content`` only where the service needs it."""

    length: int
    sha256: str
    content: bytes


async def read_body(request: web.BaseRequest, limit_bytes: int | None, too_large: Refused, *, keep: bool) -> Body:
    """Read the body, whole only when ``keep`` is set; a caller that waits for 100 is told to go on first.

    Raises:
        Refused: ``too_large``, before anything is read when the length is declared.
    """
    declared = request.content_length
    if limit_bytes is not None and declared is not None and declared > limit_bytes:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    digest = hashlib.sha256()
    length = 0
    kept = bytearray()
    async for chunk in request.content.iter_any():
        length += len(chunk)
        if limit_bytes is not None and length > limit_bytes:
            raise too_large
        digest.update(chunk)
        if keep:
            kept += chunk
        await asyncio.sleep(0)  # hashing fast uploads must not starve the others
    return Body(length, digest.hexdigest(), bytes(kept))


def _masked(name: bytes, value: bytes) -> str:
    lower = name.decode("latin-1").lower().replace("_", "-")
    text = value.decode("utf-8", "replace")
    if lower == "authorization":
        scheme, _, rest = text.partition(" ")
        signed = [part.strip() for part in rest.split(",") if part.strip().startswith("SignedHeaders=")]
        return f"{scheme} Access=***, {signed[0]}, Signature=***" if signed else f"{scheme} ***"
    return "***" if lower in SECRET_FIELDS or lower == "x-security-token" else text
