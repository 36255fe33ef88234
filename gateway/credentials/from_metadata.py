"""Temporary keys of the agency that a server has been given (ECS user guide, "Obtaining Metadata": Security Key)."""

import re
from collections.abc import Callable

from gateway.config import places
from gateway.credentials.asking import Answer, ask
from gateway.credentials.keys import read_keys
from gateway.credentials.token import Cause, FetchFailed, Token
from gateway.routes import UpstreamUrl

ADDRESS = places.upstream_url("http://169.254.169.254")
_WHO = "the metadata service"
_TOKEN_PATH = "/meta-data/latest/api/token"  # noqa: S105 - a path
_KEYS_PATH = "/openstack/latest/securitykey"
# How long a metadata token is asked for, and how long the service is taken for one without, as the official SDKs do.
_TOKEN_LIFE_SECONDS = 21600
_PLAIN_SECONDS = 86400.0
# A service without tokens says so: the SDKs know 404, 405 and 503, and clusters have been seen to answer 400.
_NO_TOKENS = frozenset({400, 404, 405, 503})
_METADATA_TOKEN = re.compile(r"[!-~]{1,16384}")
_NO_AGENCY = b"Please configure Cloud Service Agency first"


class FromMetadata:
    """Asks the server's own metadata service, by its token form where it has one, else by the plain one."""

    def __init__(self, address: UpstreamUrl, wall: Callable[[], float], now: Callable[[], float]) -> None:
        """``now`` is monotonic."""
        self._address = address
        self._wall = wall
        self._now = now
        self._token: str | None = None
        self._token_until = float("-inf")  # also: until when no token is asked for again

    async def fetch(self) -> Token:
        """The keys.

        Raises:
            FetchFailed: there are none: no such service, no agency, an odd answer.
        """
        if self._now() >= self._token_until:
            await self._renew_token()
        answer = await self._ask_keys()
        if answer.status == 401 and _NO_AGENCY not in answer.body:
            await self._renew_token()
            if self._token is None:
                raise FetchFailed("the metadata service wants a token and gives none (401)")
            answer = await self._ask_keys()
        if answer.status == 200:
            return read_keys(answer.body, _WHO, self._wall())
        if _NO_AGENCY in answer.body or answer.status == 404:
            raise FetchFailed(
                "this server has no agency, so its metadata service has no keys; choose one in the console (ECS, "
                f"the server's page, Agency) ({answer.status})",
                Cause.REFUSED,
            )
        raise FetchFailed(
            f"the metadata service answered {answer.status}",
            retry_after_seconds=answer.retry_after_seconds(self._wall()),
        )

    async def _ask_keys(self) -> Answer:
        fields = {} if self._token is None else {"X-Metadata-Token": self._token}
        return await ask("GET", self._address, self._address.base_path + _KEYS_PATH, who=_WHO, fields=fields)

    async def _renew_token(self) -> None:
        answer = await ask(
            "PUT",
            self._address,
            self._address.base_path + _TOKEN_PATH,
            who=_WHO,
            fields={"X-Metadata-Token-Ttl-Seconds": str(_TOKEN_LIFE_SECONDS)},
        )
        if answer.status == 200:
            token = answer.body.decode("latin-1").strip()
            if _METADATA_TOKEN.fullmatch(token) is None:
                raise FetchFailed("the token of the metadata service is empty or holds characters that no token has")
            self._token = token
            self._token_until = self._now() + _TOKEN_LIFE_SECONDS * 0.9
        elif answer.status in _NO_TOKENS:
            self._token = None
            self._token_until = self._now() + _PLAIN_SECONDS
        else:
            raise FetchFailed(f"the metadata service answered {answer.status} to the request for a token")
