"""The gate in front of every service: which credential arrived, and whether it opens this address."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from gateway.simulator import signature
from gateway.simulator.answers import Refused, app_side, iam_side
from gateway.simulator.keys import KeyIssuer
from gateway.simulator.lockout import Lockout
from gateway.simulator.options import Options
from gateway.simulator.places import Family
from gateway.simulator.received import SECRET_FIELDS, Body, Head
from gateway.simulator.tokens import Tokens, huawei_time

# API Request Signing Guide: a signature is refused more than 15 minutes from the server's time, either way.
WINDOW_SECONDS = 15 * 60
# API Gateway FAQ: more than five failures lock an access key for five minutes.
AK_FAILURES = 6
AK_LOCK_SECONDS = 5 * 60


@dataclass(frozen=True, slots=True)
class Admission:
    """A credential that was let in by the head alone; a signature is settled once the body is there."""

    kind: str  # token | aksk | temporary_aksk | app_signature | app_code | app_key | api_key | none
    pending: signature.Presented | None = None
    secret: str = ""


class Gate:
    """Checks credentials as the family's own front does. ``now`` is the simulator's Unix time."""

    def __init__(self, options: Options, tokens: Tokens, keys: KeyIssuer, now: Callable[[], float]) -> None:
        self.options = options
        self._keys = keys
        self._tokens = tokens
        self._now = now
        self.locks = Lockout(AK_FAILURES, float("inf"), AK_LOCK_SECONDS, now)

    def admit(self, family: Family, head: Head) -> Admission:
        """Check all that the head can tell.

        Raises:
            Refused: no credential, a wrong one, one of the other address, or more than one.
        """
        _refuse_several(head)
        match family:
            case Family.V1_IAM:
                return self._iam_address(head)
            case Family.V1_APP:
                return self._app_address(head)
            case Family.V2:
                return self._v2_token(head)
            case Family.V2_API_KEY:
                return self._v2_api_key(head)
            case Family.MAAS:
                return self._maas(head)
            case _:
                return Admission("none")

    def settle(self, family: Family, admission: Admission, head: Head, body: Body) -> None:
        """Compare a pending signature with the one over what was received.

        Raises:
            Refused: they differ; the message quotes the canonical request that was expected.
        """
        presented = admission.pending
        if presented is None:
            return
        refuse = iam_side if family is Family.V1_IAM else app_side
        hashed = signature.payload_hash(head.fields, presented.signed, body.sha256)
        canonical = signature.canonical_request(head.method, head.target, head.fields, presented.signed, hashed)
        date = head.get(signature.DATE) or ""
        # Whether a signed field may repeat is not settled between the vendor's own signers: it may not.
        single = all(len(signature.values(head.fields, name)) == 1 for name in presented.signed)
        if single and hmac.compare_digest(presented.compute(admission.secret, date, canonical), presented.signature):
            self.locks.succeeded(presented.access)
            return
        if family is Family.V1_IAM:
            self.locks.failed(presented.access)
        what = "verify aksk signature fail" if family is Family.V1_IAM else "verify signature fail"
        raise refuse(f"{what}, canonicalRequest:{signature.echo(canonical)}")

    def _iam_address(self, head: Head) -> Admission:
        token = head.get("X-Auth-Token")
        if token is not None:
            return self._token(token, v2=False)
        authorization = head.get("Authorization")
        if authorization is None:
            raise iam_side("x-auth-token not found")
        if not authorization.startswith(signature.ALGORITHMS):
            raise iam_side("decrypt token fail")  # API Gateway takes any other Authorization for a token
        presented = _parse(authorization, iam_side)
        secret, expected = self._secret_of(presented.access)
        if self.locks.locked(presented.access):
            raise iam_side("AK access failed to reach the limit,forbidden")
        if not _same(head.get("X-Security-Token"), expected):
            self.locks.failed(presented.access)
            raise iam_side("verify aksk signature fail, the security token is not that of the access key")
        self._check_date(presented, head, iam_side)
        kind = "aksk" if expected is None else "temporary_aksk"
        return Admission(kind, presented, secret)

    def _secret_of(self, access: str) -> tuple[str, str | None]:
        """The secret of an access key, and the security token that goes with it, if any."""
        options = self.options
        if access == options.ak:
            return options.sk, None
        if access == options.temporary_ak:
            return options.temporary_sk, options.security_token
        keys = self._keys.find(access)
        if keys is None:
            raise iam_side(f"Get secretKey failed,ak:{access},err:ak not exist")
        if self._now() >= keys.expiry:
            raise iam_side(f"token expires, expires_at: {huawei_time(keys.expiry)}")
        return keys.secret, keys.security_token

    def _app_address(self, head: Head) -> Admission:
        options = self.options
        app_code, app_key = head.get("X-Apig-AppCode"), head.get("apikey")
        if app_code is not None:
            if not _same(app_code, options.app_code):
                raise app_side("app not found")
            return Admission("app_code")
        if app_key is not None:
            if not _same(app_key, options.app_key):
                raise app_side(f"app not found, appkey {app_key}")
            return Admission("app_key")
        authorization = head.get("Authorization")
        if authorization is None:
            raise app_side("Access or Credential is empty in Authorization")
        presented = _parse(authorization, app_side)
        if presented.access != options.app_key:
            raise app_side(f"app not found, appkey {presented.access}")
        self._check_date(presented, head, app_side)
        return Admission("app_signature", presented, options.app_secret)

    def _v2_token(self, head: Head) -> Admission:
        token = head.get("X-Auth-Token")
        if token is None:
            raise Refused(401, "ModelArts.0201", "The request has no X-Auth-Token.")
        return self._token(token, v2=True)

    def _v2_api_key(self, head: Head) -> Admission:
        authorization = head.get("Authorization")
        if authorization is None:
            raise Refused(401, "ModelArts.0205", "The request has no Authorization header.")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(401, "ModelArts.0206", "The Authorization header is malformed.")
        if not _same(key.strip(), self.options.api_key):
            raise Refused(401, "ModelArts.0208", "The check of the Authorization header failed.")
        return Admission("api_key")

    def _maas(self, head: Head) -> Admission:
        scheme, _, key = (head.get("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Refused(400, "ModelArts.81002", "The Authorization header is missing or is not a Bearer key.")
        if not _same(key.strip(), self.options.api_key):
            raise Refused(401, "ModelArts.81003", "The API key cannot be parsed.")
        return Admission("api_key")

    def _token(self, text: str, *, v2: bool) -> Admission:
        token = self._tokens.find(text)
        if token is None:
            raise (
                Refused(401, "ModelArts.0204", "The token cannot be parsed.") if v2 else iam_side("decrypt token fail")
            )
        if token.revoked:
            raise Refused(401, "APIG.0307", "The token must be updated.")
        if self._now() >= token.expiry:
            if v2:
                raise Refused(401, "ModelArts.0202", "The token has expired.")
            raise iam_side(f"token expires, expires_at: {huawei_time(token.expiry)}")
        if not token.has_project:
            raise Refused(400, "ModelArts.0204", "Failed to get the projectId from the token.")
        return Admission("token")

    def _check_date(self, presented: signature.Presented, head: Head, refuse: Callable[[str], Refused]) -> None:
        date = head.get(signature.DATE)
        if date is None or signature.DATE not in presented.signed:
            raise refuse("x-sdk-date is missing or not signed")
        try:
            instant = signature.instant(date)
        except signature.Unreadable as error:
            raise refuse(str(error)) from error
        now = self._now()
        if abs(instant - now) > WINDOW_SECONDS:
            raise refuse(f"signature expired, signature time:{date},server time:{signature.sdk_date(now)}")


def _refuse_several(head: Head) -> None:
    """Which of several credentials wins is documented nowhere, so several are a fault of the sender."""
    names = head.names()
    secrets = [name for name in names if name in SECRET_FIELDS]
    if len(secrets) > 1:
        raise Refused(
            400, "Simulator.SeveralCredentials", f"Several credentials arrived: {', '.join(secrets)}. Send exactly one."
        )
    companions = sorted({name for name in names if name.startswith("x-sdk-") or name == "x-security-token"})
    if companions and "authorization" not in names:
        raise Refused(
            400, "Simulator.StrayCredential", f"Parts of a signature arrived without one: {', '.join(companions)}."
        )


def _parse(authorization: str, refuse: Callable[[str], Refused]) -> signature.Presented:
    try:
        return signature.parse(authorization)
    except signature.Unreadable as error:
        raise refuse(str(error)) from error


def _same(given: str | None, expected: str | None) -> bool:
    if given is None or expected is None:
        return given is expected
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
