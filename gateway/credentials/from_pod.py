"""Temporary keys of a pod's identity on CCE, from the agent whose address and token the cluster puts into the pod."""

from collections.abc import Callable

from gateway.credentials.asking import ask
from gateway.credentials.keys import read_keys
from gateway.credentials.token import Cause, FetchFailed, Token
from gateway.routes import UpstreamUrl
from gateway.secret import Secret

# As the official SDKs read them.
ADDRESS_VARIABLE = "HC_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN_FILE_VARIABLE = "HC_CONTAINER_AUTHORIZATION_TOKEN_FILE"  # noqa: S105 - a name
_WHO = "the pod identity agent"


class FromPod:
    """Shows the pod's own token, which the cluster renews in its file, and gets keys."""

    def __init__(self, address: UpstreamUrl, token: Secret, wall: Callable[[], float]) -> None:
        self._address = address
        self._token = token
        self._wall = wall

    async def fetch(self) -> Token:
        """The keys.

        Raises:
            FetchFailed: there are none.
        """
        answer = await ask(
            "POST",
            self._address,
            self._address.base_path or "/",
            who=_WHO,
            fields={"Authorization": self._token.reveal(), "Content-Type": "application/json"},
            body=b"{}",
        )
        if answer.status in (200, 201):
            return read_keys(answer.body, _WHO, self._wall())
        if answer.status in (400, 401, 403, 404):
            raise FetchFailed(
                f"the pod identity agent refused this pod ({answer.status}); is an agency associated with its service "
                "account (CCE, Pod Identity)?",
                Cause.REFUSED,
            )
        raise FetchFailed(
            f"the pod identity agent answered {answer.status}",
            retry_after_seconds=answer.retry_after_seconds(self._wall()),
        )
