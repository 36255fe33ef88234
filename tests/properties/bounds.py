"""How long the properties look: always the same inputs, so that an ordinary run never fails by chance."""

from hypothesis import HealthCheck, settings

# Fuzzing looks further, and elsewhere each time; a failure that is found here is found by everybody.
bounded = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
