"""Lines of heads that have two readings: refused, whoever sends them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError
from gateway.wire.fields import HeadError, split_lines
from gateway.wire.request_head import parse_request
from gateway.wire.response_head import read_response


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(b"Name : x", id="space before the colon"),
        pytest.param(b"Name\t: x", id="tab before the colon"),
        pytest.param(b"Name", id="no colon"),
        pytest.param(b": x", id="no name"),
        pytest.param(b" Name: x", id="folded line"),
        pytest.param(b"\tName: x", id="line folded with a tab"),
        pytest.param(b"", id="empty line"),
        pytest.param(b"N\xc3\xa4me: x", id="name outside ASCII"),
        pytest.param(b"Name: a\x00b", id="NUL"),
        pytest.param(b"Name: a\x7fb", id="DEL"),
        pytest.param(b"Name: a\x0bb", id="vertical tab"),
        pytest.param(b"Name: a\nX: b", id="bare LF"),
        pytest.param(b"Name: a\rX: b", id="bare CR"),
        pytest.param(b"Name: a\n\rX: b", id="LF CR"),
        pytest.param(b"Name: a\r\r\nX: b", id="CR CR LF"),
        pytest.param(b"Na(me: x", id="name is no token"),
    ],
)
def test_lines_with_two_readings(field: bytes) -> None:
    """Lines and bytes that hide a second meaning are refused, in requests and in answers."""
    with pytest.raises(BadRequest):
        parse_request(b"\r\n".join([b"GET / HTTP/1.1", b"Host: h", b"Before: 1", field, b"After: 2"]))
    with pytest.raises(HeadError):
        read_response(
            split_lines(b"\r\n".join([b"HTTP/1.1 200 OK", b"Before: 1", field, b"After: 2"])), to_head_request=False
        )


def refusal_of_request(head: bytes) -> GatewayError | None:
    try:
        parse_request(head)
    except GatewayError as error:
        return error
    return None


def refusal_of_answer(head: bytes) -> HeadError | None:
    try:
        read_response(split_lines(head), to_head_request=False)
    except HeadError as error:
        return error
    return None


@given(st.binary(max_size=200))
def test_noise_is_refused_with_a_reason(noise: bytes) -> None:
    """Any bytes are either a head or an error of ours; and no message repeats them."""
    for head in (noise, b"GET / HTTP/1.1\r\nHost: h\r\n" + noise):
        refusal = refusal_of_request(head)
        assert refusal is None or refusal.status in {400, 405, 417, 501, 505}
        assert len(noise) < 8 or noise.decode("latin-1") not in f"{refusal}{refusal_of_answer(head)}"
