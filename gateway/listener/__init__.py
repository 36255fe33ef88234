"""The door: callers' connections, read by the letter and answered in order, one story per request."""

from gateway.listener.bounds import Bounds
from gateway.listener.listener import Listener

__all__ = ["Bounds", "Listener"]
