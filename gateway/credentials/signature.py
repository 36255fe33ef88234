"""What the two kinds that sign have in common: what is signed, how the body enters, and when to stop trying."""

import re
from typing import Literal

from gateway.config.types import CredentialSettings
from gateway.credentials.base import Credential, CredentialState, Services
from gateway.deadline import Deadline
from gateway.errors import CredentialUnavailable
from gateway.inbound import Fields
from gateway.outbound import Outbound
from gateway.refusals import Refusal
from gateway.secret import Secret
from gateway.signing import EMPTY_HASH, UNSIGNED_PAYLOAD, DerivedSigner, Signer

# How a body enters the signature: hashed, or announced as unsigned; `auto` hashes what fits into the route's `replay`.
Payload = Literal["auto", "hash", "unsigned"]
# The second is for API gateways that ask for it; its key is good for one day, region and service.
Algorithm = Literal["SDK-HMAC-SHA256", "V11-HMAC-SHA256"]

# APIG locks an access key for 5 minutes after more than 5 signature failures in a row (APIG FAQ). Stopping at 4 leaves
# room for requests that are already on their way.
_REFUSALS_IN_A_ROW = 4
_HOLD_SECONDS = 300.0
_NOT_HELD = float("-inf")
# What other workers are told.
_HELD, _COUNTED = "held", "counted"

# One plain word: it reads the same signed, sent and repeated in an error, whatever a server does to white space.
_PLAIN_VALUE = re.compile(rb"[!-~]+")


class Signature(Credential):
    """Signs each request over what really leaves; holds itself back when the upstream locks, or is about to lock, the key."""

    signs = True

    def __init__(
        self,
        name: str,
        settings: CredentialSettings,
        services: Services,
        *,
        payload: Payload,
        access_key: Secret,
        secret_key: Secret,
        security_token: Secret | None = None,
        project_id: str | None = None,
        algorithm: Algorithm = "SDK-HMAC-SHA256",
        region: str | None = None,
    ) -> None:
        super().__init__(name, settings, services)
        self._payload = payload
        self._access_key = access_key
        self._secret_key = secret_key
        self._security_token = security_token
        self._project_id = project_id
        self._region = region if algorithm == "V11-HMAC-SHA256" else None
        self._generation = -1
        self._refusals_in_a_row = 0
        self._held_until = _NOT_HELD  # monotonic
        self._held_why = ""
        self._last_error: str | None = None
        self._last_success: float | None = None
        self._notice_rotation()

    async def authorize(self, outbound: Outbound, deadline: Deadline) -> None:
        outline = outbound.outline
        payload_hash = None if self._payload == "unsigned" else outbound.body.sha256_if_here()
        if payload_hash is None:
            self._notice_rotation()
            self._refuse_while_held()  # before a body is received for nothing
            payload_hash = await self._payload_hash(outbound)
        self._notice_rotation()
        self._refuse_while_held()
        content_sha256 = UNSIGNED_PAYLOAD if payload_hash == UNSIGNED_PAYLOAD else None
        x_sdk_date, authorization = self._signer.sign(
            outline.method,
            outline.path,
            outline.query or "",
            outline.authority,
            payload_hash=payload_hash,
            instant_seconds=self.services.wall() + outbound.clock_skew_seconds,
            content_sha256=content_sha256,
            stage=None if outline.stage is None else _plain(outline.stage),
        )
        fields = outbound.fields
        fields.append((b"X-Sdk-Date", x_sdk_date.encode()))
        if content_sha256 is not None:
            fields.append((b"X-Sdk-Content-Sha256", b"UNSIGNED-PAYLOAD"))
        fields.extend(self._constant_fields)
        fields.append((b"Authorization", authorization.encode()))

    async def refused(self, outbound: Outbound, refusal: Refusal, deadline: Deadline) -> bool:
        """Never True: another signature with the same key would only bring the lock-out nearer.

        What is not certain holds, counts and clears nothing: a caller could make a model say it, to hold the key for all.
        """
        if not refusal.certain:
            return False
        self._notice_rotation()
        if refusal.refusal_class == "auth_locked":
            why = "the upstream has locked this key after too many bad signatures"
            self._hold(why)
            self.services.spread(self.name, _HELD, why)
        elif refusal.refusal_class == "auth_signature" or _unknown_key(refusal):
            why = f"the upstream refused a signature ({refusal.code})"
            if _unknown_key(refusal):
                why = f"the upstream knows no such key ({refusal.code}); is this a service's IAM address?"
            self._count(why)
            self.services.spread(self.name, _COUNTED, why)
        elif refusal.refusal_class.startswith("auth_"):
            self._last_error = f"the upstream refused the key ({refusal.label}, {refusal.code})"
        elif refusal.refusal_class == "model_error":
            self.accepted(outbound)  # the request came through to the model
        return False

    def heard(self, what: str, why: str) -> None:
        """The upstream counts by key, whichever worker signed."""
        self._notice_rotation()
        if what == _HELD:
            self._hold(why)
        elif what == _COUNTED:
            self._count(why)

    def accepted(self, outbound: Outbound) -> None:
        if self._last_error is not None:
            self._refusals_in_a_row = 0
            self._last_error = None
        self._last_success = self.services.wall()

    def state(self) -> CredentialState:
        self._notice_rotation()
        held = self._held_seconds() > 0
        return CredentialState(
            usable=not held,
            summary=f"held for {self._held_seconds():.0f}s: {self._held_why}" if held else "fresh",
            last_success=self._last_success,
            last_error=self._last_error,
        )

    async def _payload_hash(self, outbound: Outbound) -> str:
        body = outbound.body
        if body.empty:
            return EMPTY_HASH
        if self._payload == "hash":
            return await body.sha256()
        if self._payload == "auto":
            return await body.sha256() if await body.fits(body.replay_bytes) else UNSIGNED_PAYLOAD
        # Signers disagree about an empty body that is announced as unsigned, so a chunked one is looked into first.
        if not body.length and (body.length == 0 or await body.fits(0)):
            return EMPTY_HASH
        return UNSIGNED_PAYLOAD

    def _prepare(self) -> None:
        token = self._security_token
        keys = (self._access_key.reveal(), self._secret_key.reveal())
        token_text = None if token is None else token.reveal()
        self._signer: Signer
        if self._region is None:
            self._signer = Signer(*keys, security_token=token_text, project_id=self._project_id)
        else:
            self._signer = DerivedSigner(
                *keys, security_token=token_text, project_id=self._project_id, region=self._region
            )
        self._constant_fields: Fields = []
        if token is not None:
            self._constant_fields.append((b"X-Security-Token", token.reveal().encode()))
        if self._project_id is not None:
            self._constant_fields.append((b"X-Project-Id", self._project_id.encode()))

    def _notice_rotation(self) -> None:
        """A new key or secret starts with a clean sheet: it lifts a hold."""
        token = self._security_token
        generation = self._access_key.generation + self._secret_key.generation
        if token is not None:
            generation += token.generation
        if generation != self._generation:
            self._generation = generation
            self._prepare()
            self._refusals_in_a_row = 0
            self._held_until = _NOT_HELD
            self._last_error = None

    def _held_seconds(self) -> float:
        return self._held_until - self.services.monotonic()

    def _count(self, why: str) -> None:
        self._refusals_in_a_row += 1
        self._last_error = why
        if self._refusals_in_a_row >= _REFUSALS_IN_A_ROW:
            self._hold(
                f"the upstream refused {self._refusals_in_a_row} signatures in a row; more would lock the key. "
                "Check the key and its secret"
            )

    def _hold(self, why: str) -> None:
        self._held_until = self.services.monotonic() + _HOLD_SECONDS
        self._held_why = why
        self._last_error = why
        self._refusals_in_a_row = 0

    def _refuse_while_held(self) -> None:
        if self._held_until == _NOT_HELD:
            return
        seconds = self._held_seconds()
        if seconds > 0:
            raise CredentialUnavailable(
                f"Credential '{self.name}' is held for another {seconds:.0f}s: {self._held_why}.",
                retry_after_seconds=seconds,
            )


def _unknown_key(refusal: Refusal) -> bool:
    """The IAM address says that there is no such access key: unlike an app, that is no matter of waiting a minute."""
    return refusal.refusal_class == "auth_invalid" and refusal.code == "APIG.0301" and not refusal.refresh


def _plain(stage: bytes) -> str | None:
    """X-Stage as it is signed; one with other bytes leaves unsigned."""
    return stage.decode() if _PLAIN_VALUE.fullmatch(stage) else None
