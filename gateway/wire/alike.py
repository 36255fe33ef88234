"""Response heads of one connection: an upstream's answers are alike but for a few values, so all else is read once."""

from collections.abc import Sequence
from copy import copy
from typing import Final, NamedTuple

from gateway.headers import Kind
from gateway.wire.fields import IN_LINES, FieldBlock, split_lines
from gateway.wire.response_head import RESPONSE_NAMES, ResponseHead, announced_length, read_response

# The framing of an answer follows from these and its Content-Length: where one of them differs, all is read anew.
_NEVER_VARY: Final = frozenset({b"connection", b"transfer-encoding"})
# A connection whose answers are not alike stops looking for what they have in common.
_TRIES = 16
_LONGEST_HEAD_BYTES = 8 * 1024


class _Varying(NamedTuple):
    """A value that was seen to vary."""

    before: bytes  # all since the last one, up to its colon
    name: bytes  # as it is written, with its colon
    noted: bytes | None  # the name under which it is noted
    place: int | None  # among the pieces that cross


class ResponseHeads:
    """Reads the response heads of one connection, in their order.

    Two heads are alike when they have the same fields in the same order. Of the next one like them, only the values in
    which they differed are looked at (Date, ids, lengths); all between them has to be the same, byte for byte.
    """

    __slots__ = ("_end", "_lines", "_response", "_sized_anew", "_tries", "_varied", "_varying")

    def __init__(self) -> None:
        self._tries = _TRIES
        self._lines: Sequence[bytes] = ()  # of the head that was read in full last
        self._response: ResponseHead | None = None  # and what it said
        self._varied: set[int] = set()  # those of its lines that were seen to vary
        # What heads like it consist of: values that vary, and the end behind them; None while none was seen.
        self._varying: tuple[_Varying, ...] = ()
        self._end: bytes | None = None
        self._sized_anew = False  # a Content-Length is among what varies

    def parse(self, head: bytes, *, to_head_request: bool) -> ResponseHead:
        """What the head says (``read_response``). What it gives may be shared: it is not to be changed."""
        if self._end is not None and not to_head_request:
            alike = self._read_varying(head)
            if alike is not None:
                return alike
        lines = split_lines(head)
        response = read_response(lines, to_head_request=to_head_request)
        # What has no body is framed by more than its head.
        if self._tries and not response.bodiless and len(head) <= _LONGEST_HEAD_BYTES:
            self._tries -= 1
            self._learn(lines, response)
        return response

    def _read_varying(self, head: bytes) -> ResponseHead | None:
        """What the head says, if it is alike."""
        known = self._response
        assert known is not None
        if not self._varying:
            return known if head == self._end else None
        block = known.fields
        noted, pieces = {**block.noted}, [*block.lines]
        at = 0
        for before, name, noted_name, place in self._varying:
            if not head.startswith(before, at):
                return None
            begin = at + len(before)
            at = head.find(b"\r\n", begin)
            if at < 0:
                at = len(head)
            value = head[begin:at]
            if value.translate(None, IN_LINES):
                return None
            if place is not None:
                pieces[place] = name + value
            if noted_name is not None:
                noted[noted_name] = value.strip(b" \t")
        if head[at:] != self._end:
            return None
        response = ResponseHead()
        response.status, response.reason, response.keep_alive = known.status, known.reason, known.keep_alive
        response.chunked, response.bodiless, response.until_close = known.chunked, False, known.until_close
        response.content_length = (
            announced_length(noted[b"content-length"]) if self._sized_anew else known.content_length
        )
        response.fields = FieldBlock(pieces, block.forwarded, noted)
        return response

    def _learn(self, lines: Sequence[bytes], response: ResponseHead) -> None:
        """Compare a head with the one that was read in full before it."""
        before, varied = self._lines, self._varied
        self._lines, self._varied, self._end = lines, set(), None
        fields = response.fields
        if len(before) != len(lines) or fields.repeated is not None:
            return
        crossing, apart = set(map(id, fields.lines)), set(map(id, fields.forwarded))
        varying: list[_Varying] = []
        pieces: list[bytes] = []
        since: list[bytes] = [lines[0]]  # what stands between the last value that varies and here
        open_piece = False
        for at in range(1, len(lines)):
            line = lines[at]
            name = line[: line.index(b":") + 1]
            if not before[at].startswith(name):
                return
            crosses = id(line) in crossing
            if line == before[at] and at not in varied:
                since.append(line)
                if crosses:
                    pieces = [*pieces[:-1], pieces[-1] + b"\r\n" + line] if open_piece else [*pieces, line]
                    open_piece = True
                continue
            verdict = RESPONSE_NAMES.verdict(name[:-1])
            if verdict is None or verdict[0] in _NEVER_VARY or id(line) in apart:
                return
            noted_name = verdict[0] if verdict[1] & Kind.NOTE else None
            varying.append(_Varying(b"\r\n".join([*since, name]), name, noted_name, len(pieces) if crosses else None))
            since = [b""]
            if crosses:
                pieces.append(line)
                open_piece = False
            self._varied.add(at)
        self._sized_anew = any(value.noted == b"content-length" for value in varying)
        self._varying, self._end = tuple(varying), b"\r\n".join(since)
        self._response = copy(response)
        self._response.fields = FieldBlock(pieces, fields.forwarded, fields.noted)
