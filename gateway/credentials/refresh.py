"""The life of a token: fetched, served while it holds, renewed in time, replaced when refused.

Driven by the clocks of ``Services``; knows nothing of who issues the token.
"""

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from gateway.credentials.base import CredentialState, Services
from gateway.credentials.token import Cause, FetchFailed, Token
from gateway.deadline import Deadline
from gateway.errors import CredentialUnavailable
from gateway.secret import Secret

log = logging.getLogger(__name__)

# How long a request without a usable token waits for the attempt in progress.
_WAIT_SECONDS = 5.0

# What is left of a token's life when it is renewed, at least, where that is not most of its life: an outage of the
# issuer that is shorter goes unnoticed.
_LEFT_SECONDS = 300.0
# A token is no longer sent this long before its expiry (or a tenth of a very short life), so that it still holds when
# the upstream looks at it.
_MARGIN_SECONDS = 5.0
# Two fetches by the clock are at least this far apart, however short the tokens' lives are.
_SPACING_SECONDS = 1.0
# No mixture of failures, refusals, rotations and short lives brings about more attempts than this in so many seconds.
_ATTEMPTS_AT_MOST = 8
_ATTEMPTS_WITHIN_SECONDS = 10.0

# Waits after failures, each doubling up to its end.
_TRANSIENT_SECONDS = (0.5, 30.0)
_REFUSED_SECONDS = (60.0, 900.0)
# IAM counts wrong passwords over 15 minutes (IAM user guide, "Login Authentication Policy").
_LOCK_OUT_SECONDS = 900.0
# An issuer's Retry-After is honoured up to here; beyond it, asking again does no harm.
_LONGEST_RETRY_AFTER_SECONDS = 3600.0

# Sleeps are cut into pieces: a machine that slept, or whose clock was set, is noticed. Rotated secrets say so themselves.
_LONGEST_SLEEP_SECONDS = 30.0
_LONGEST_SLEEP_AFTER_FAILURE_SECONDS = 1.0


class Refresher:
    """Keeps one token fresh for everybody who uses the credential.

    ``fetch`` is given the token that an upstream refused, or None; one call at a time is under way, shared by all who
    wait and not cancelled when one of them leaves. A change of one of the ``secrets`` behind the token lifts every wait
    after a failure, and a token is fetched with the new secret at once, while the old token goes on serving.
    ``what`` it is called in the log and in messages.
    """

    def __init__(
        self,
        name: str,
        fetch: Callable[[bytes | None], Awaitable[Token]],
        services: Services,
        *,
        attempt_seconds: float,
        renew_at: float,
        secrets: Sequence[Secret] = (),
        what: str = "token",
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """``attempt_seconds`` limits one fetch; ``renew_at`` is the share of a token's life after which it is renewed."""
        self._name = name
        self._fetch = fetch
        self._services = services
        self._attempt_seconds = attempt_seconds
        self._renew_at = renew_at
        self._secrets = tuple(secrets)
        self._what = what
        self._jitter = jitter
        self._token: Token | None = None
        self._token_number = 0
        self._usable_until = 0.0  # wall
        self._renewal = 0.0  # wall
        self._number = 0  # of attempts begun
        self._attempt: asyncio.Task[None] | None = None
        self._not_before = float("-inf")  # monotonic: the end of the wait after a failure
        self._spaced_until = float("-inf")  # monotonic
        self._failures = 0  # in a row, of one cause
        self._failure: FetchFailed | None = None  # the last attempt's
        self._tried_generation = self._generation()  # of the secrets that the last attempt began with
        self._begun: deque[float] = deque(maxlen=_ATTEMPTS_AT_MOST)  # monotonic
        self._last_success: float | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._sleeping: asyncio.Future[None] | None = None
        self._started = False
        self._closed = False

    def start(self) -> None:
        """Begin the first fetch and keep the token fresh from then on. Before it nothing is ever fetched."""
        self._started = True
        self._loop = asyncio.get_running_loop()
        for secret in self._secrets:
            secret.watch(self._secret_changed)
        self._begin(None)
        self._supervise()

    async def close(self) -> None:
        """Stop; an attempt in progress is cancelled."""
        self._closed = True
        for secret in self._secrets:
            secret.unwatch(self._secret_changed)
        tasks = [task for task in (self._loop_task, self._attempt) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def attempting(self) -> bool:
        return self._attempt is not None

    def token(self) -> Token | None:
        """The token, if it may be sent now."""
        if self._token is not None and self._services.wall() < self._usable_until:
            return self._token
        return None

    async def usable(self, deadline: Deadline) -> Token:
        """The token, waiting for the attempt in progress at most 5 s and never past ``deadline``.

        Raises:
            CredentialUnavailable: there is none; at once when no attempt is in progress and none may begin yet.
        """
        attempt = self._attempt
        if attempt is None and self._may_begin() and self._spacing_seconds() <= 0:
            attempt = self._begin(None)
        if attempt is not None:
            await self._wait_for(attempt, deadline)
        token = self.token()
        if token is None:
            raise CredentialUnavailable(
                f"Credential '{self._name}' has no usable {self._what} now: {self._why()}.",
                retry_after_seconds=self._retry_after_seconds(),
            )
        return token

    async def replace(self, refused: bytes, deadline: Deadline, *, drop: bool) -> bool:
        """Fetch a token in place of the one an upstream refused; True when there is a usable one that is not it.

        ``drop``: the refused token is dead, and is not sent again whatever comes of the fetch.
        """
        token = self.token()
        if token is not None and token.value != refused:
            return True
        if drop and token is not None:
            self._token = None
        attempt = self._attempt
        if attempt is None:
            if not self._may_begin():
                return False
            attempt = self._begin(refused)
        await self._wait_for(attempt, deadline)
        token = self.token()
        return token is not None and token.value != refused

    async def obtain(self, refused: bytes | None) -> Token:
        """A token for another process, which keeps its own ``Refresher`` on top of ours.

        Raises:
            FetchFailed: there is none, with the time after which to ask again.
        """
        token = self.token()
        if token is None or token.value == refused or self._services.wall() >= self._renewal:
            attempt = self._attempt
            if attempt is None and self._may_begin():
                attempt = self._begin(refused)
            if attempt is not None:
                await asyncio.wait({attempt})
            token = self.token()
        if token is None or token.value == refused:
            cause = Cause.TRANSIENT if self._failure is None else self._failure.cause
            raise FetchFailed(self._why(), cause, retry_after_seconds=self._retry_after_seconds())
        return token

    def wake(self) -> None:
        """End the wait after a failure: there is reason to think that the next attempt succeeds."""
        self._not_before = float("-inf")
        if self._sleeping is not None:
            self._sleeping.cancel()

    def state(self) -> CredentialState:
        if self.token() is not None:
            summary = "fresh" if self._services.wall() < self._renewal else "stale: due for renewal"
        elif self._failure is not None and self._failure.cause is Cause.LOCK_OUT and self._hold_seconds() > 0:
            summary = f"held until the secret changes or {_minutes(self._hold_seconds())} have passed"
        else:
            summary = f"waiting for a {self._what}" if self._token is None else "expired"
        return CredentialState(
            usable=self.token() is not None,
            summary=summary,
            expiry=None if self._token is None else self._token.expiry,
            last_success=self._last_success,
            last_error=None if self._failure is None else self._failure.reason,
            clock_ahead_seconds=0.0 if self._token is None else self._token.clock_ahead_seconds,
        )

    async def _wait_for(self, attempt: asyncio.Task[None], deadline: Deadline) -> None:
        # asyncio.wait leaves the task alone when the waiting caller goes or its time is up.
        seconds = min(_WAIT_SECONDS, deadline.remaining_seconds(self._services.monotonic()))
        await asyncio.wait({attempt}, timeout=seconds)

    def _begin(self, refused: bytes | None) -> asyncio.Task[None]:
        self._number += 1
        self._begun.append(self._services.monotonic())
        self._tried_generation = self._generation()
        task = asyncio.create_task(self._attempt_once(self._number, refused), name=f"credential-refresh {self._name}")
        task.add_done_callback(self._report)
        self._attempt = task
        return task

    async def _attempt_once(self, number: int, refused: bytes | None) -> None:
        # Whatever ends the fetch, the failure is on the record; what was not foreseen is reported by _report.
        failure: FetchFailed | None = FetchFailed("the attempt broke off")
        began = self._services.monotonic()
        try:
            async with asyncio.timeout(self._attempt_seconds):
                token = await self._fetch(refused)
            failure = self._adopt(token, number)
        except FetchFailed as error:
            failure = error
        except TimeoutError:
            failure = FetchFailed(f"no answer within {self._attempt_seconds:g}s (timeout)")
        finally:
            self._attempt = None
            if not self._closed:
                self._record(failure)
                self._services.fetched(self._name, began, None if failure is None else failure.reason)

    def _adopt(self, token: Token, number: int) -> FetchFailed | None:
        """Take a fetched token, unless it cannot be used or a later attempt was faster."""
        now = self._services.wall()
        life = token.expiry - now
        if life <= 0:
            return FetchFailed("the token that was issued has already expired; is this machine's clock right?")
        if number < self._token_number:
            return None
        margin = min(_MARGIN_SECONDS, life / 10)
        left = max((1 - self._renew_at) * life, 2 * margin)
        if life >= 2 * _LEFT_SECONDS:
            left = max(left, _LEFT_SECONDS)
        self._token = token
        self._token_number = number
        self._renewal = token.expiry - left
        self._usable_until = token.expiry - margin
        return None

    def _record(self, failure: FetchFailed | None) -> None:
        now = self._services.monotonic()
        if failure is None:
            self._failures = 0
            self._not_before = float("-inf")
            self._spaced_until = now + _SPACING_SECONDS
            self._last_success = self._services.wall()
            log.log(self._level(logging.INFO), "credential '%s': a new %s was obtained", self._name, self._what)
        else:
            same = self._failure is not None and self._failure.cause is failure.cause
            self._failures = self._failures + 1 if same else 1
            pause = self._pause_after(failure)
            self._not_before = now + pause
            level = self._level(logging.WARNING)
            log.log(level, "credential '%s': %s; next attempt in %.1fs", self._name, failure.reason, pause)
        self._failure = failure
        self._services.refreshed(self._name, "ok" if failure is None else "failed")
        self._plan_anew()

    def _level(self, level: int) -> int:
        """Of several workers none says what the process that obtains tokens for them says already."""
        return level if self._services.shared_token is None else logging.DEBUG

    def _pause_after(self, failure: FetchFailed) -> float:
        doubling = 2.0 ** min(self._failures - 1, 16)
        if failure.cause is Cause.LOCK_OUT:
            # Somebody else with the same secret may have been refused earlier, and says how long that still counts.
            return _LOCK_OUT_SECONDS if failure.retry_after_seconds is None else failure.retry_after_seconds
        if failure.cause is Cause.REFUSED:
            first, last = _REFUSED_SECONDS
            pause = min(last, first * doubling * (1 + 0.1 * self._jitter()))
        else:
            first, last = _TRANSIENT_SECONDS
            pause = min(last, first * doubling) * (1 - 0.25 * self._jitter())
        asked = min(failure.retry_after_seconds or 0.0, _LONGEST_RETRY_AFTER_SECONDS)
        return max(pause, asked)

    def _hold_seconds(self) -> float:
        """What is left of the wait after a failure; nothing once the secret has changed."""
        if self._failure is None or self._rotated():
            return 0.0
        return max(0.0, self._not_before - self._services.monotonic())

    def _secret_changed(self) -> None:
        """Called in the thread that reads files."""
        self._loop.call_soon_threadsafe(self._plan_anew)

    def _plan_anew(self) -> None:
        if self._sleeping is not None:
            self._sleeping.cancel()

    def _generation(self) -> int:
        return sum(secret.generation for secret in self._secrets)

    def _rotated(self) -> bool:
        """The secret is another than the one that was tried last."""
        return self._generation() != self._tried_generation

    def _may_begin(self) -> bool:
        return self._started and not self._closed and max(self._hold_seconds(), self._crowded_seconds()) <= 0

    def _crowded_seconds(self) -> float:
        if len(self._begun) < _ATTEMPTS_AT_MOST:
            return 0.0
        return max(0.0, self._begun[0] + _ATTEMPTS_WITHIN_SECONDS - self._services.monotonic())

    def _spacing_seconds(self) -> float:
        return max(0.0, self._spaced_until - self._services.monotonic())

    def _pause_seconds(self) -> float:
        """How long until the next attempt by the clock; never negative."""
        pause = max(self._hold_seconds(), self._spacing_seconds(), self._crowded_seconds())
        if self.token() is not None and not self._rotated():
            pause = max(pause, self._renewal - self._services.wall())
        return pause

    def _supervise(self) -> None:
        self._loop_task = asyncio.create_task(self._run(), name=f"credential-renewal {self._name}")
        self._loop_task.add_done_callback(self._loop_ended)

    async def _run(self) -> None:
        while True:
            pause = self._pause_seconds()
            if self._attempt is not None:
                await asyncio.wait({self._attempt})
            elif pause > 0:
                longest = _LONGEST_SLEEP_SECONDS if self._failure is None else _LONGEST_SLEEP_AFTER_FAILURE_SECONDS
                await self._sleep(min(pause, longest))
            else:
                self._begin(None)

    async def _sleep(self, seconds: float) -> None:
        self._sleeping = asyncio.ensure_future(self._services.sleep(seconds))
        try:
            await asyncio.wait({self._sleeping})
        finally:
            self._sleeping.cancel()
            self._sleeping = None

    def _report(self, task: asyncio.Task[None]) -> None:
        """Name what nobody foresaw; its text may quote the token, so only its type is told."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("credential '%s': the attempt failed unexpectedly: %s", self._name, type(error).__name__)

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        """Renewal must not end while the gateway runs, whatever ended it."""
        if self._closed:
            return
        error = None if task.cancelled() else task.exception()
        log.error("credential '%s': renewal ended (%s), starting it again", self._name, type(error).__name__)
        task.get_loop().call_later(_SPACING_SECONDS, lambda: None if self._closed else self._supervise())

    def _why(self) -> str:
        if self._failure is not None:
            return self._failure.reason
        if self.attempting:
            return "the attempt to obtain one is still under way"
        return "none was obtained yet" if self._last_success is None else "it has expired or was refused"

    def _retry_after_seconds(self) -> float:
        """When another request may fare better; an attempt under way may end any moment."""
        return 1.0 if self.attempting else max(1.0, self._hold_seconds())


def _minutes(seconds: float) -> str:
    count = max(1, math.ceil(seconds / 60))
    return "1 minute" if count == 1 else f"{count} minutes"
