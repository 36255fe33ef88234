"""Connections to upstreams: our own, so that what leaves and what comes back is exactly what we read and wrote."""

from gateway.upstream.attempt import Attempt
from gateway.upstream.pool import Upstream, Upstreams

__all__ = ["Attempt", "Upstream", "Upstreams"]
