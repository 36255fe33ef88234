"""Turns the file's models into the shapes the rest of the gateway uses: units in the names, nothing nested for show."""

from gateway.config.model import CallerSettings, ProcessSettings, RouteSettings
from gateway.config.shapes import Caller, Process
from gateway.routes import Breaker, Cors, Limits, Retry, Route


def process(settings: ProcessSettings) -> Process:
    return Process(
        in_flight=settings.in_flight,
        head_seconds=settings.head,
        head_bytes=settings.head_bytes,
        keep_alive_seconds=settings.keep_alive,
        body_memory_bytes=settings.body_memory,
        drain_seconds=settings.drain,
        drain_delay_seconds=settings.drain_delay,
    )


def route(settings: RouteSettings, credential: str | None, *, signed: bool) -> Route:
    limits, breaker, cors = settings.limits, settings.breaker, settings.cors
    return Route(
        name=settings.name,
        prefix=settings.path,
        upstream=settings.upstream,
        credential=credential,
        signed=signed,
        methods=settings.methods,
        limits=Limits(
            body_bytes=limits.body,
            connect_seconds=limits.connect,
            first_byte_seconds=limits.first_byte,
            idle_seconds=limits.idle,
            deadline_seconds=limits.deadline,
            in_flight=limits.in_flight,
            rate=limits.rate,
        ),
        replay_bytes=settings.replay,
        retry=Retry(settings.retry.attempts, settings.retry.idempotent),
        websocket=settings.websocket,
        breaker=Breaker(breaker.failures, breaker.open) if breaker is not None else None,
        cors=Cors(cors.origins, cors.headers, cors.credentials, cors.max_age) if cors is not None else None,
        connection=settings.connection,
        forwarded=settings.forwarded,
    )


def caller(settings: CallerSettings) -> Caller:
    return Caller(
        name=settings.name,
        token=settings.token,
        certificate=settings.certificate,
        networks=settings.addresses or (),
        routes=None if "*" in settings.routes else frozenset(settings.routes),
        in_flight=settings.in_flight_limit,
        rate=settings.rate_limit,
    )
