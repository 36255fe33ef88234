"""gateway.advice: nobody is left alone with an error on the status page."""

from gateway import errors
from gateway.advice import ADVICE
from gateway.refusals import labels


def test_every_error_has_advice() -> None:
    """Each error of ours and each class of upstream error has its sentence, and none is left over."""
    ours = {
        value.code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.GatewayError)
    }

    assert set(ADVICE) == ours | {f"upstream {label}" for label in labels()}


def test_advice_fits_a_glance() -> None:
    """Each is a whole sentence or two that fits a phone's screen."""
    assert [advice for advice in ADVICE.values() if not advice.endswith((".", "?")) or len(advice) > 120] == []
