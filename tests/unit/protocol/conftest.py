"""Hypothesis, without wall-clock deadlines: the machines that run this are shared."""

from hypothesis import HealthCheck, settings

settings.register_profile("shared", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
