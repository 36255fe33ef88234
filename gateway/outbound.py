"""The request that leaves: ours to change, made from an inbound one that is not."""

from collections.abc import Collection

from gateway import paths
from gateway.body import Body
from gateway.inbound import Fields
from gateway.routes import Match
from gateway.wire.request_head import RequestHead


class Outline:
    """What leaves for a request head on a route, the same however often it comes: all but the body, the request's id and
    the credential.

    Every credential of the caller is already gone.
    """

    __slots__ = ("authority", "beginning", "fields", "method", "path", "query", "route", "stage", "upgrade")

    def __init__(self, head: RequestHead, match: Match, via: bytes, *, without: Collection[bytes] = ()) -> None:
        """``via`` is our own mark; ``without`` are lower-case names of end-to-end fields that stay behind.

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
        self.route = route
        self.method = head.method
        self.path = match.upstream_path  # raw, base path included; canonical on signed routes
        self.query = query  # raw; canonical on signed routes; None: no "?" leaves
        self.authority = route.upstream.authority  # the Host field
        self.upgrade = head.websocket and route.websocket  # a WebSocket handshake
        lines = [*block.lines, *block.forwarded] if route.forwarded else block.lines  # as they came
        if without:
            lines = [line for line in lines if line.partition(b":")[0].lower() not in without]
        came_via = block.noted.get(b"via")
        fields: Fields = [(b"Via", via if came_via is None else came_via + b", " + via)]
        # Where exactly one came: servers and signers read a repeated one in different ways.
        stage = block.noted.get(b"x-stage")
        if stage is not None and not block.came_twice(b"x-stage"):
            fields.append((b"X-Stage", stage))
        else:
            stage = None
        self.stage = stage  # part of what a signature covers
        self.fields = fields  # ours
        first = f"{self.method} {self.target} HTTP/1.1\r\nHost: {self.authority}".encode("latin-1")
        # As it stands on the wire, without the last CR LF.
        self.beginning = b"\r\n".join([first, *lines, *map(b": ".join, fields)])

    @property
    def target(self) -> str:
        return self.path if self.query is None else f"{self.path}?{self.query}"


class Outbound:
    """One attempt's request. A credential appends to ``fields``; a signature covers only what stands here."""

    __slots__ = ("body", "clock_skew_seconds", "fields", "outline")

    def __init__(self, outline: Outline, body: Body, request_id: str, clock_skew_seconds: float = 0.0) -> None:
        self.outline = outline
        self.body = body
        self.fields: Fields = [(b"X-Request-Id", request_id.encode("ascii"))]
        self.clock_skew_seconds = (
            clock_skew_seconds  # upstream clock minus ours; signatures add it to the time they use
        )
