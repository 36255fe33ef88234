"""The floors of the house: which module stands where. Imports go down, never up or sideways."""

# Module or package below `gateway`, and its floor. A new one is added here, or the test says so.
FLOORS = {
    # words: the standard library alone
    "errors": 0,
    "deadline": 0,
    "secret": 0,
    "exchange": 0,
    "story": 0,
    "tcp": 0,
    "spool": 0,
    # rules: pure, no clock, no network
    "headers": 1,
    "paths": 1,
    "routes": 1,
    "body": 1,
    "signing": 1,
    "refusals": 1,
    "limits": 1,
    "advice": 1,
    "wire": 1,
    "inbound": 1,
    # shapes
    "config": 2,
    "outbound": 2,
    "cors": 2,
    "credentials": 3,
    # edges: the world outside
    "upstream": 4,
    "callers": 4,
    "admission": 4,
    "retry": 4,
    "metrics": 4,
    "logs": 4,
    "sockets": 4,
    "systemd": 4,
    "tls": 4,
    "keyring": 4,
    "reload": 4,
    "tracing": 4,
    "site": 5,
    "proxy": 6,
    # doors
    "listener": 6,
    "admin": 6,
    "checks": 6,
    "process": 7,
    "serving": 7,
    "app": 7,
    "workers": 8,
    "authz": 8,  # a process of its own, that answers checks and carries nothing
    "server": 8,
    "cli": 9,
    "__main__": 10,
}

# Below the cli alone and above nothing but words and rules, which it is better off without: it must not
# believe what the gateway believes.
SIMULATOR = "simulator"
SIMULATOR_MAY_IMPORT_FLOORS = {0, 1}

# Neighbours on one floor that may be used, each with its reason.
NEIGHBOURS = {
    ("exchange", "story"),  # what an exchange waits on, and is ended by
    ("exchange", "errors"),  # an exchange ends with one of them
    ("routes", "paths"),  # matching refuses ambiguous paths first
    ("wire", "headers"),  # a head is read and sorted in one go
    ("inbound", "wire"),  # the head that came in
    ("body", "inbound"),  # where its bytes come from
    ("app", "serving"),  # one process is what serves, and the admin listener
    ("server", "workers"),  # or several
}

# What a floor may take from outside the standard library; a floor that is not here may take everything.
OUTSIDE = {
    0: set[str](),
    1: set[str](),
}

# `except Exception` (or broader) hides faults. Here it is the point, each with its reason.
MAY_CATCH_EVERYTHING = {
    "story.py": "a fault that ends one story must not end those that are resumed with it",
    "proxy.py": "the one place that turns a fault of ours into an answer",
    "logs/program.py": "a log line that cannot be written must not end the request it tells of; logging's own convention",
}
