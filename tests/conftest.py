"""Settings that hold for every test."""

import os

# Read by torch and numpy when they are first imported; subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "2")

from hypothesis import HealthCheck, settings

# The same examples on every run and machine, however slow that is: a failure is then seen again.
settings.register_profile(
    "lookalike", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lookalike")
