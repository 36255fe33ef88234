"""What every kind of credential is: something that authorizes one outbound request, or says why it cannot."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar

from gateway.config.types import CredentialSettings
from gateway.credentials.lock_outs import LockOuts
from gateway.credentials.token import Token
from gateway.deadline import Deadline
from gateway.outbound import Outbound
from gateway.refusals import Refusal


def _nobody(name: str, what: str, why: str) -> None:
    """There are no other workers."""


def _untraced(name: str, began: float, failure: str | None) -> None:
    """Nobody makes spans."""


@dataclass(frozen=True, slots=True)
class Services:
    """What a credential may use of the outside world; tests hand in their own.

    ``wall`` is Unix time in seconds, ``monotonic`` the event loop's clock.
    ``refreshed`` is told each attempt to obtain a token: credential name and ``ok`` or ``failed``.
    ``shared_token``, where several workers serve, asks the one process that obtains tokens for all of them: it takes
    the credential's name and the token an upstream refused (None: none was), and raises as ``IamToken.obtain`` does.
    ``lock_outs`` is what all credentials of a process know about refused passwords.
    ``fetched`` is told the same with the instant at which the attempt began and why it failed (None: it did not), for traces.
    ``spread`` lets the credential of the same name in every other worker hear of something (``Credential.heard``).
    """

    wall: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    refreshed: Callable[[str, str], None]
    shared_token: Callable[[str, bytes | None], Awaitable[Token]] | None = None
    lock_outs: LockOuts = field(default_factory=LockOuts)
    spread: Callable[[str, str, str], None] = _nobody
    fetched: Callable[[str, float, str | None], None] = _untraced


@dataclass(frozen=True, slots=True)
class CredentialState:
    """How a credential is doing, in words an operator can act on; holds no secret. Instants are Unix time.

    ``clock_ahead_seconds`` is its issuer's clock minus ours, where they differ by more than a minute.
    """

    usable: bool
    summary: str  # fresh | stale | expired | waiting for a token | held …
    expiry: float | None = None
    last_success: float | None = None
    last_error: str | None = None
    clock_ahead_seconds: float = 0.0


class Credential(ABC):
    """One named credential of the configuration."""

    kind: ClassVar[str]
    Settings: ClassVar[type[CredentialSettings]]
    # Header names this kind writes. All of them are dropped from every caller (gateway.headers), tested by the contract test.
    owned_headers: ClassVar[frozenset[str]]
    signs: ClassVar[bool] = False  # path and query leave in canonical form
    # ``refused`` may answer True; set by instances where it depends on the settings, so no ClassVar.
    renews: bool = False

    def __init__(self, name: str, settings: CredentialSettings, services: Services) -> None:
        self.name = name
        self.settings = settings
        self.services = services

    def start(self) -> None:  # noqa: B027 - most kinds have nothing to run
        """Begin background work, if the kind has any. Called once, inside the running loop."""

    async def close(self) -> None:  # noqa: B027
        """End background work and close what was opened."""

    @abstractmethod
    async def authorize(self, outbound: Outbound, deadline: Deadline) -> None:
        """Append the credential to ``outbound.fields``; the last step before the request leaves, anew for each attempt.

        Raises:
            CredentialUnavailable: there is no usable credential now; nothing may be sent.
            BodyTooLarge, BadRequest, Overloaded: the signature needed the body, which could not be received or held.
        """

    @abstractmethod
    def state(self) -> CredentialState: ...

    async def refused(self, outbound: Outbound, refusal: Refusal, deadline: Deadline) -> bool:
        """The upstream refused ``outbound``, with this credential in its fields.

        True when another attempt may succeed: a new token is there; never where ``renews`` is false. Never raises; may
        wait until ``deadline``. A refusal that is not ``certain`` may be a caller's own words: nothing is done about it.
        """
        return False

    def accepted(self, outbound: Outbound) -> None:  # noqa: B027 - only those that count refusals care
        """The upstream answered ``outbound`` without objecting to the credential. Called for each request, so cheap."""

    def heard(self, what: str, why: str) -> None:  # noqa: B027 - only those that count refusals care
        """What another worker's credential of this name had ``Services.spread``; ``why`` is safe to show."""

    def wake(self) -> None:  # noqa: B027 - only those that wait after a failure
        """What was missing may be there now: the process that obtains tokens for all workers has a new one."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"
