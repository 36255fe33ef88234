"""What the simulator accepts and how strict it is; every value can be set."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Options:
    """Credentials that are accepted, and limits that are applied. Durations in seconds, sizes in bytes.

    The defaults are made up and open nothing anywhere else.
    """

    user: str = "gateway"
    password: str = "simulated-password"  # noqa: S105 - opens nothing but this simulator
    domain: str = "simulated-account"
    domain_id: str = "5117a7ed0d0a1140ffffffffffffd0aa"
    project: str = "cn-north-4"
    project_id: str = "5117a7ed0b0ec7ffffffffffffffb0ec"
    ak: str = "SIMULATEDACCESSKEY00"
    sk: str = "simulatedSecretKey0000000000000000000000"
    temporary_ak: str = "SIMULATEDTEMPORARY00"
    temporary_sk: str = "simulatedTemporarySecretKey0000000000000"
    security_token: str = "simulated-security-token"  # noqa: S105 - as above
    app_key: str = "51aa7ed0a99000000000000000000000"
    app_secret: str = "51aa7ed0a995ec0e7000000000000000"  # noqa: S105 - as above
    app_code: str = "51aa7ed0a99c0de00000000000000000000000000000000000000000"
    api_key: str = "simulated-api-key"
    # Another account, which has made the account above its agent; its project has the same name.
    agency_domain: str = "simulated-other-account"
    agency: str = "simulated-agency"
    # An identity provider that IAM trusts, and the ID token it vouches for.
    idp: str = "simulated-idp"
    id_token: str = "simulated.id.token"  # noqa: S105 - as above
    pod_token: str = "simulated-pod-token"  # noqa: S105 - as above

    # IAM's tokens live 24 hours (IAM API Reference, "Obtaining a User Token Through Password Authentication").
    token_life_seconds: float = 24 * 3600
    # Temporary keys of an agency.
    key_life_seconds: float = 24 * 3600
    # Whether the metadata service gives keys to those alone who show a metadata token.
    metadata_tokens: bool = False
    # v1: 12 MB and 40 s (ModelArts user guide, "Accessing a Real-Time Service Through Token-based
    # Authentication"). API Gateway is built on nginx, whose megabyte is binary.
    body_bytes: int | None = 12 * MIB
    deadline_seconds: float = 40.0
    # v2: both are settings of each service; the time runs to the first chunk and starts again with each.
    # The size is MaaS's here as well, whose own is not published.
    v2_body_bytes: int | None = 50 * MIB
    v2_chunk_seconds: float = 1200.0
    # How long the chat model thinks about each word.
    word_seconds: float = 0.02
    # Model names that MaaS knows; empty: any.
    models: tuple[str, ...] = ()


# The members of Options that a caller needs in order to be let in.
CREDENTIALS = (
    "user",
    "password",
    "domain",
    "domain_id",
    "project",
    "project_id",
    "ak",
    "sk",
    "temporary_ak",
    "temporary_sk",
    "security_token",
    "app_key",
    "app_secret",
    "app_code",
    "api_key",
    "agency_domain",
    "agency",
    "idp",
    "id_token",
    "pod_token",
)


def credentials_of(options: Options) -> dict[str, str]:
    """The accepted credentials by name."""
    return {name: getattr(options, name) for name in CREDENTIALS}
