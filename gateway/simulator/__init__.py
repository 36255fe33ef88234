"""A local stand-in for IAM, API Gateway and ModelArts services that really verifies what it is sent.

It shares no code with the gateway, so that a mistake made there cannot cancel out here.
"""

from gateway.simulator.options import Options
from gateway.simulator.server import Simulator

__all__ = ["Options", "Simulator"]
