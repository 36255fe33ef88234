"""The request that leaves: ours to change, made from an inbound one that is not."""

from dataclasses import dataclass

from gateway import paths
from gateway.body import Body
from gateway.inbound import Fields, Lines
from gateway.routes import Match, Route
from gateway.wire.heads import RequestHead


@dataclass(slots=True)
class Outbound:
    """One attempt's request. A credential appends to ``fields``; a signature covers only what stands here."""

    method: str
    path: str  # raw, base path included; canonical on signed routes
    query: str | None  # raw; canonical on signed routes; None: no "?" leaves
    authority: str  # the Host field
    lines: Lines  # the caller's end-to-end fields as they came; shared with the inbound request, never changed
    fields: Fields  # ours, and the credential's
    body: Body
    route: Route
    upgrade: bool = False  # a WebSocket handshake
    announce_length: bool = False  # say Content-Length: 0 too: the caller did
    clock_skew_seconds: float = 0.0  # upstream clock minus ours; signatures add it to the time they use

    @property
    def target(self) -> str:
        return self.path if self.query is None else f"{self.path}?{self.query}"


def prepare(head: RequestHead, match: Match, body: Body, request_id: str, via: bytes) -> Outbound:
    """What leaves for what came in, but for the credential: every credential of the caller is already gone.

    Raises:
        BadPath: the query has more than one reading, or no settled canonical form on a signed route.
    """
    route, block = match.route, head.fields
    query = head.raw_query
    if query is not None:
        if route.signed:
            query = paths.canonical_query(query) or None
        else:
            paths.refuse_ambiguous_query(query)
    fields: Fields = [(b"X-Request-Id", request_id.encode("ascii"))]
    came_via = block.noted.get(b"via")
    fields.append((b"Via", via if came_via is None else came_via + b", " + via))
    stage = block.noted.get(b"x-stage")
    if stage is not None and not block.came_twice(b"x-stage"):
        fields.append((b"X-Stage", stage))
    # By position: a class called with names takes twice as long to make.
    return Outbound(
        head.method,
        match.upstream_path,
        query,
        route.upstream.authority,
        [*block.lines, *block.forwarded] if route.forwarded and block.forwarded else block.lines,
        fields,
        body,
        route,
        head.websocket and route.websocket,
        head.content_length == 0,
    )
