"""The lines of a head and the fields in them, read to the letter of RFC 9112 and RFC 9110.

Whatever has two readings is refused: bare CR or LF, folded lines, control bytes, white space before the colon.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from gateway.headers import Names, named_in_connection, without

# Every byte that may stand in a line: field-vchar, SP, HTAB, obs-text. What is left of a head must be its line ends.
IN_LINES: Final = bytes(byte for byte in range(256) if byte == 0x09 or (byte >= 0x20 and byte != 0x7F))
_LINE_ENDS: Final = tuple(b"\r\n" * count for count in range(64))
LENGTH_DIGITS: Final = 18  # of a Content-Length: below 2**63
# What a Connection field nearly always says, and whether the connection is kept then; anything else is taken apart.
PLAIN_CONNECTIONS: Final = {b"keep-alive": True, b"Keep-Alive": True, b"close": False, b"Close": False}
_NO_NAME = "a header line has no valid name before its colon (RFC 9112 section 5)"

_Read = TypeVar("_Read")


class HeadError(ValueError):
    """A head that is not HTTP; the message says why in words that quote nothing of it."""


class FieldBlock:
    """Header fields: the lines that cross, as they came, and the values we need to know.

    ``lines`` are end-to-end, and of answers that came before several may stand in one; ``forwarded`` cross only where the
    route says so; ``noted`` maps lower-case names to values (repetitions joined with a comma); ``repeated`` names those of
    them that came more than once.
    """

    __slots__ = ("forwarded", "lines", "noted", "repeated")

    lines: Sequence[bytes]
    forwarded: Sequence[bytes]
    noted: Mapping[bytes, bytes]

    def __init__(
        self,
        lines: Sequence[bytes],
        forwarded: Sequence[bytes],
        noted: Mapping[bytes, bytes],
        repeated: set[bytes] | None = None,
    ) -> None:
        self.lines = lines
        self.forwarded = forwarded
        self.noted = noted
        self.repeated = repeated

    def came_twice(self, name: bytes) -> bool:
        return self.repeated is not None and name in self.repeated


def read_fields(head_lines: Sequence[bytes], names: Names) -> FieldBlock:
    """Sort field lines by what is done with them.

    Raises:
        HeadError: a line without a name.
    """
    lines: list[bytes] = []
    forwarded: list[bytes] = []
    noted: dict[bytes, bytes] = {}
    repeated: set[bytes] | None = None
    known = names.known
    for line in head_lines:
        raw_name, colon, value = line.partition(b":")
        try:
            name, kind = known[raw_name]
        except KeyError:
            verdict = names.learn(raw_name)
            if verdict is None:
                raise HeadError(_NO_NAME) from None
            name, kind = verdict
        if not colon:
            raise HeadError(_NO_NAME)
        if not kind:
            lines.append(line)
            continue
        if kind & 1:
            value = value.strip(b" \t")
            if name in noted:
                repeated = repeated or set()
                repeated.add(name)
                noted[name] += b", " + value
            else:
                noted[name] = value
        if kind & 4:
            forwarded.append(line)
        elif not kind & 2:
            lines.append(line)
    connection = noted.get(b"connection")
    if connection is not None and connection not in PLAIN_CONNECTIONS:
        named = named_in_connection(connection)
        if named:
            lines, forwarded = without(lines, named), without(forwarded, named)
    return FieldBlock(lines, forwarded, noted, repeated)


def split_lines(head: bytes) -> list[bytes]:
    """The lines of a head; refuses bytes that no line may hold.

    Raises:
        HeadError: control bytes, or CR and LF that do not come as a pair.
    """
    lines = head.split(b"\r\n")
    ends = len(lines) - 1
    others = head.translate(None, IN_LINES)
    if others != (_LINE_ENDS[ends] if ends < 64 else b"\r\n" * ends):
        raise HeadError("a control byte, or a line that does not end in CR LF (RFC 9112 section 2.2)")
    return lines


def remember(known: dict[bytes, _Read], raw: bytes, read: _Read) -> None:
    """Keep what a line says: the same few come for ever; but others choose them, so the memory is bounded."""
    if len(raw) <= 512:
        if len(known) >= 1024:
            known.clear()
        known[raw] = read
