"""Who is asking: callers by token, by client certificate or by address, and which routes are theirs."""

import hashlib
import logging
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from gateway.errors import CallerNotAllowed, CallerUnknown

if TYPE_CHECKING:
    from gateway.config import Caller
    from gateway.inbound import Peer
    from gateway.secret import Secret

log = logging.getLogger(__name__)

# Addresses whose caller is remembered; emptied when full, as anybody may come from anywhere.
_REMEMBERED_ADDRESSES = 4096


class _Token(NamedTuple):
    caller: "Caller"
    secret: "Secret"
    generation: int  # of the secret, when its digest was taken


class Callers:
    """The callers of the configuration. Without any, nobody is asked: everybody may use every route and is called "".

    A token wins over a certificate, a certificate over an address. A token that is shown but wrong is refused, whatever
    the address: its sender believes to be somebody. Where no caller has a token, tokens say nothing and are ignored, so
    that clients which always send some key (OpenAI's) work behind an address or a certificate.
    """

    def __init__(self, callers: Iterable["Caller"]) -> None:
        self._callers = tuple(callers)
        self._with_token = tuple((caller, caller.token) for caller in self._callers if caller.token is not None)
        self._by_certificate = {caller.certificate: caller for caller in reversed(self._callers) if caller.certificate}
        # The narrowest network wins, as the longest prefix does among routes.
        self._networks = sorted(
            ((network, caller) for caller in self._callers for network in caller.networks),
            key=lambda entry: entry[0].prefixlen - entry[0].max_prefixlen,
            reverse=True,
        )
        self._remembered: dict[str, Caller | None] = {}
        self._generation = -1  # of all tokens together
        self._by_digest: dict[bytes, _Token] = {}
        self._read_tokens()

    def __bool__(self) -> bool:
        """Any are configured."""
        return bool(self._callers)

    def identify(self, fields: Iterable[tuple[bytes, bytes]], peer: "Peer") -> "Caller":
        """The caller behind a request, where callers are configured.

        Raises:
            CallerUnknown: a wrong token, or nothing that says who is asking.
        """
        token = _token(fields) if self._with_token else None
        if token is not None:
            return self._of_token(token)
        for name in peer.certificate_names:
            if name in self._by_certificate:
                return self._by_certificate[name]
        caller = self._of_address(peer.address) if self._networks else None
        if caller is None:
            raise CallerUnknown(
                "This gateway serves known callers only, and nothing in the request says who is asking: "
                f"{self._ways()} (callers).",
                setting="callers",
            )
        return caller

    def check(self, caller: "Caller", route_name: str) -> None:
        """Raises CallerNotAllowed when the route is not among the caller's ``routes``."""
        if caller.routes is not None and route_name not in caller.routes:
            raise CallerNotAllowed(
                f"Caller '{caller.name}' may not use route '{route_name}' (callers.routes).", setting="callers.routes"
            )

    def _of_token(self, token: bytes) -> "Caller":
        # Looked up by digest: how long that takes says nothing about how much of a guess was right.
        digest = hashlib.sha256(token).digest()
        known = self._by_digest.get(digest)
        if known is None or known.generation != known.secret.generation:
            self._read_tokens()  # a file may have rotated since
            known = self._by_digest.get(digest)
        if known is None:
            raise CallerUnknown(
                "The request's token is not the token of any caller (Authorization: Bearer, or X-API-Key).",
                setting="callers.token",
            )
        return known.caller

    def _read_tokens(self) -> None:
        """Take the tokens as they are now; nothing to do when none was replaced."""
        generation = sum(secret.generation for _, secret in self._with_token)  # each only ever grows
        if generation == self._generation:
            return
        self._generation = generation
        self._by_digest = {}
        for caller, secret in self._with_token:
            digest = hashlib.sha256(secret.reveal().encode()).digest()
            first = self._by_digest.setdefault(digest, _Token(caller, secret, secret.generation)).caller
            if first is not caller:
                log.warning(
                    "callers '%s' and '%s' have the same token; it is taken for '%s'",
                    first.name,
                    caller.name,
                    first.name,
                )

    def _of_address(self, address: str) -> "Caller | None":
        if address not in self._remembered:
            if len(self._remembered) >= _REMEMBERED_ADDRESSES:
                self._remembered.clear()
            self._remembered[address] = self._in_networks(address)
        return self._remembered[address]

    def _in_networks(self, address: str) -> "Caller | None":
        try:
            ip = _unmapped(ip_address(address.partition("%")[0]))  # without the zone of fe80::1%eth0
        except ValueError:  # a Unix socket has none
            return None
        return next((caller for network, caller in self._networks if ip in network), None)

    def _ways(self) -> str:
        ways = []
        if self._with_token:
            ways.append("send Authorization: Bearer <token> or X-API-Key")
        if self._by_certificate:
            ways.append("show a client certificate of a caller")
        if self._networks:
            ways.append("come from an address of a caller")
        return ", or ".join(ways)


def _unmapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address in ``::ffff:10.0.0.1``, as a socket listening on both families reports it."""
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip


def _token(fields: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The token a request shows: of ``Authorization: Bearer`` (RFC 6750 section 2.1), else of ``X-API-Key``.

    Other schemes of Authorization are not for us.
    """
    api_key = None
    for name, value in fields:
        if len(name) == 13 and name.lower() == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip(b" ")
        elif len(name) == 9 and api_key is None and name.lower() == b"x-api-key":
            api_key = value
    return api_key
