"""A secret shows itself only when asked."""

import copy
import json
import logging
import pickle
import traceback

import pytest

from gateway.secret import Secret

VALUE = "pl4nted-value"


def shown_by_traceback(secret: Secret) -> str:
    try:
        raise ValueError(secret)
    except ValueError:
        return traceback.format_exc()


def shown_by_log(secret: Secret) -> str:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (secret, secret), None)
    return record.getMessage()


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(str, id="str"),
        pytest.param(repr, id="repr"),
        pytest.param(lambda secret: f"{secret}{secret!r}{secret:>30}", id="f-string"),
        pytest.param(lambda secret: "%s %r" % (secret, secret), id="percent"),  # noqa: UP031 - that is what is tried
        pytest.param(lambda secret: str([secret, {"a": secret}]), id="within containers"),
        pytest.param(lambda secret: json.dumps(secret, default=str), id="JSON"),
        pytest.param(shown_by_traceback, id="traceback"),
        pytest.param(shown_by_log, id="log"),
        pytest.param(lambda secret: str(dir(secret)), id="dir"),
    ],
)
def test_it_does_not_show_itself(show: object) -> None:
    """Whatever prints it prints stars."""
    assert callable(show)
    assert VALUE not in show(Secret(VALUE, "file /run/secrets/x"))


@pytest.mark.parametrize("leave", [pickle.dumps, copy.deepcopy, copy.copy, vars], ids=lambda leave: leave.__name__)
def test_it_does_not_leave(leave: object) -> None:
    """It cannot be pickled or copied away."""
    assert callable(leave)
    with pytest.raises(TypeError):
        leave(Secret(VALUE))


def test_it_rotates_in_place() -> None:
    """The holder stays, its generation tells that the value changed; the same value is no change."""
    secret = Secret("first", "env NAME")

    assert secret.replace("first") is False
    assert (secret.reveal(), secret.generation) == ("first", 0)
    assert secret.replace("second") is True
    assert (secret.reveal(), secret.generation, secret.source) == ("second", 1, "env NAME")


def test_it_is_itself() -> None:
    """Two holders are compared by who they are, so that nothing compares values in passing."""
    assert Secret(VALUE) != Secret(VALUE)
