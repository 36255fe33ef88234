"""Several processes that are one gateway to everybody outside.

The supervisor owns the address, the admin listener, the configuration file and the tokens; workers serve callers. They talk
over socketpairs (``link``), which nobody else can reach and which leave nothing on a disk.
"""
