"""Which web pages may use a route, and the fields that tell their browsers (Fetch Standard, "CORS protocol").

A page must not spend a credential just because it can reach the port: an ``Origin`` that a route does not name is
refused, and a route without ``cors`` refuses every ``Origin``.
"""

from gateway.errors import OriginNotAllowed
from gateway.routes import Route
from gateway.wire.request_head import RequestHead

_EXPOSED = b"X-Request-Id, X-Gateway-Request-Id, Retry-After, Proxy-Status"


def is_preflight(head: RequestHead) -> bool:
    noted = head.fields.noted
    return head.method == "OPTIONS" and b"origin" in noted and b"access-control-request-method" in noted


def names(route: Route, origin: bytes) -> bool:
    """The route's ``cors.origins`` has the origin, or ``*``."""
    return route.cors is not None and ("*" in route.cors.origins or origin.decode("latin-1") in route.cors.origins)


def check_origin(route: Route, origin: bytes) -> None:
    """Raises OriginNotAllowed unless ``names``."""
    if names(route, origin):
        return
    if route.cors is not None:
        what = f"cors.origins of route '{route.name}' does not name it"
    else:
        what = f"route '{route.name}' has no cors"
    raise OriginNotAllowed(
        f"The page's Origin may not use this route: {what}.",
        setting="cors.origins",
    )


def check_fetch_site(route: Route, site: bytes) -> None:
    """Refuse what a page of another site made a browser fetch without an ``Origin``: ``<img>``, ``<script>``, links, forms.

    ``site`` is ``Sec-Fetch-Site`` (Fetch Metadata Request Headers): ``none`` is a person at the address bar.

    Raises:
        OriginNotAllowed: another site, and the route is not open to all of them.
    """
    if site in {b"none", b"same-origin"} or (route.cors is not None and "*" in route.cors.origins):
        return
    raise OriginNotAllowed(
        f"Another site's page made this request, without naming its Origin: route '{route.name}' serves pages only by "
        "cors.origins.",
        setting="cors.origins",
    )


def answer_lines(route: Route, origin: bytes | None) -> list[bytes]:
    """What every answer of a CORS route carries, our own errors included; ``origin`` has been checked."""
    cors = route.cors
    if cors is None:
        return []
    lines = [b"Vary: Origin"]
    if origin is not None:
        lines.append(b"Access-Control-Allow-Origin: " + origin)
        lines.append(b"Access-Control-Expose-Headers: " + _EXPOSED)
        if cors.credentials:
            lines.append(b"Access-Control-Allow-Credentials: true")
    return lines


def preflight_lines(route: Route, head: RequestHead) -> list[bytes]:
    """The answer to a preflight of a route, whose origin has been checked."""
    assert route.cors is not None
    noted = head.fields.noted
    lines = answer_lines(route, noted[b"origin"])
    methods = ", ".join(route.methods).encode() if route.methods else noted[b"access-control-request-method"]
    lines.append(b"Access-Control-Allow-Methods: " + methods)
    wanted = noted.get(b"access-control-request-headers")
    headers = wanted if "*" in route.cors.headers else ", ".join(route.cors.headers).encode()
    if headers:
        lines.append(b"Access-Control-Allow-Headers: " + headers)
    lines.append(b"Access-Control-Max-Age: %d" % route.cors.max_age_seconds)
    lines.append(b"Vary: Access-Control-Request-Method, Access-Control-Request-Headers")
    return lines
