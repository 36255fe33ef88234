"""Which service family a path belongs to: the address decides what credential is asked for."""

from dataclasses import dataclass
from enum import StrEnum

from gateway.simulator.answers import Refused
from gateway.simulator.keys import KEYS_PATH, METADATA_TOKEN_PATH, POD_PATH


class Family(StrEnum):
    """One address family with its own credential, limits and error bodies."""

    IAM = "iam"
    V1_IAM = "v1_iam"  # token or AK/SK
    V1_APP = "v1_app"  # AppKey/AppSecret, AppCode or AppKey
    V2 = "v2"  # token
    V2_API_KEY = "v2_api_key"
    V2_OPEN = "v2_open"  # no credential
    MAAS = "maas"
    METADATA = "metadata"  # a server's own metadata service
    POD = "pod"  # the agent of a pod's identity

    @property
    def issues(self) -> bool:
        """Hands out credentials instead of taking them."""
        return self in {Family.IAM, Family.METADATA, Family.POD}

    @property
    def is_v1(self) -> bool:
        return self in {Family.V1_IAM, Family.V1_APP}

    @property
    def is_v2(self) -> bool:
        return self in {Family.V2, Family.V2_API_KEY, Family.V2_OPEN}


# One service each. In reality the two v1 addresses of a service differ by host; here, on one port, by id.
SERVICES = {
    Family.V1_IAM: "/v1/infers/51aa7ed0-0001-4a00-8000-000000000001",
    Family.V1_APP: "/v1/infers/51aa7ed0-0001-4a00-8000-000000000002",
    Family.V2: "/v2/infer/51aa7ed0-0002-4a00-8000-000000000001",
    Family.V2_API_KEY: "/v2/infer/51aa7ed0-0002-4a00-8000-000000000002",
    Family.V2_OPEN: "/v2/infer/51aa7ed0-0002-4a00-8000-000000000003",
}
TOKENS_PATH = "/v3/auth/tokens"
ID_TOKEN_PATH = "/v3.0/OS-AUTH/id-token/tokens"  # noqa: S105 - a path
_MAAS_BASES = ("/openai/v1", "/v1", "/v2")
_MAAS_PATHS = ("/chat/completions", "/models", "/echo")
_MAAS_MESSAGES = "/anthropic/v1/messages"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request arrived: its family, and what follows the service's own address."""

    family: Family
    path: str  # "" or "/…", raw


def find(path: str) -> Place:
    """The place of a raw path.

    Raises:
        Refused: 404 as API Gateway says it, or 400 for an inference address without a service.
    """
    if path in {TOKENS_PATH, ID_TOKEN_PATH}:
        return Place(Family.IAM, path)
    if path in {KEYS_PATH, METADATA_TOKEN_PATH}:
        return Place(Family.METADATA, path)
    if path == POD_PATH:
        return Place(Family.POD, path)
    for family, base in SERVICES.items():
        if path == base or path.startswith(f"{base}/"):
            return Place(family, path[len(base) :])
    if path == _MAAS_MESSAGES:
        return Place(Family.MAAS, path)
    for base in _MAAS_BASES:
        for inner in _MAAS_PATHS:
            if path == base + inner:
                # The model service knows one path for all its bases.
                return Place(Family.MAAS, inner if inner == "/echo" else f"/v1{inner}")
    if path.rstrip("/") in {"/v1/infers", "/v2/infer"}:
        raise Refused(400, "ModelArts.4201", "The request URL has no service id.")
    raise Refused(404, "APIG.0101", "The API does not exist or has not been published in the environment.")
