"""What a caller may use: a bucket a minute, a total for ever, and both come true again after a restart."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.http.errors import ApiError
from p2pnode.http.keys import ApiKey
from p2pnode.http.limits import CALLERS_MAX, USAGE_FILE, Limits, LimitTerms, read_usage


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def key(name: str = "anna", **limits: int) -> ApiKey:
    return ApiKey(name, name * 8, 0, **limits)


def use(limits: Limits, who: ApiKey, tokens: int, used: int, wei: int = 0) -> None:
    with limits.caller(who, "").taking(tokens=tokens, wei=wei) as taken:
        taken.used(prompt_tokens=used // 2, completion_tokens=used - used // 2, wei=wei)


def refusal(limits: Limits, who: ApiKey, tokens: int, wei: int = 0) -> ApiError:
    with pytest.raises(ApiError) as caught, limits.caller(who, "").taking(tokens=tokens, wei=wei):
        raise AssertionError("it was let through")
    return caught.value


def test_tokens_a_minute_are_taken_before_and_given_back_unused() -> None:
    clock = Clock()
    limits = Limits(LimitTerms(tokens_minute=600), clock=clock)
    use(limits, key(), 600, 100)
    use(limits, key(), 500, 500)
    error = refusal(limits, key(), 60)
    assert (error.status, error.code, error.retry_after_s) == (429, "rate_limit_exceeded", 6)
    clock.now += 6
    use(limits, key(), 60, 60)


def test_more_than_a_minute_allows_at_once_waits_for_a_full_minute() -> None:
    clock = Clock()
    limits = Limits(LimitTerms(tokens_minute=60), clock=clock)
    use(limits, key(), 6_000, 10)
    assert refusal(limits, key(), 6_000).retry_after_s == 10
    clock.now += 10
    use(limits, key(), 6_000, 6_000)
    assert refusal(limits, key(), 1).retry_after_s == 5_941, "what it used is paid back in time"


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 30)), max_size=40))
def test_never_more_than_the_bucket_and_its_refill(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    limits, let = Limits(LimitTerms(tokens_minute=300), clock=clock), 0
    for tokens, wait_s in steps:
        clock.now += wait_s
        try:
            use(limits, key(), tokens, tokens)
        except ApiError:
            continue
        let += tokens
    # One request may be larger than what a minute allows, and is paid back in time.
    assert let <= 300 + (clock.now - 1_000) * 5 + 100 + 1e-6


def test_a_total_is_never_passed_not_even_by_requests_at_the_same_time() -> None:
    limits, who = Limits(LimitTerms()), key(tokens_total=100, wei_total=1_000)
    with limits.caller(who, "").taking(tokens=60, wei=10) as taken:
        error = refusal(limits, who, 41)
        assert (error.status, error.type, error.retry_after_s) == (429, "insufficient_quota", None)
        use(limits, who, 40, 40)
        taken.used(prompt_tokens=10, completion_tokens=10, wei=10)
    use(limits, who, 40, 0)
    assert refusal(limits, who, 41)
    assert refusal(limits, who, 1, 991)
    use(limits, who, 1, 1, 990)


def test_totals_outlive_a_restart(tmp_path: Path) -> None:
    limits, who = Limits(LimitTerms(), tmp_path), key(tokens_total=100)
    use(limits, who, 80, 80)
    limits.save()
    assert (tmp_path / USAGE_FILE).stat().st_mode & 0o777 == 0o600
    again = Limits(LimitTerms(), tmp_path)
    assert refusal(again, who, 21).code == "insufficient_quota"
    use(again, who, 20, 20)
    again.save()
    assert read_usage(tmp_path)[who.id].tokens == 100


def test_a_damaged_file_of_totals_is_said_and_counted_from_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / USAGE_FILE).write_text('{"a": {"tokens": 1}}', encoding="utf-8")
    limits = Limits(LimitTerms(), tmp_path)
    assert "counted from 0" in caplog.text
    use(limits, key(tokens_total=10), 10, 10)


def test_limits_of_a_key_that_changed_count_at_once() -> None:
    limits = Limits(LimitTerms())
    with limits.running_one(limits.caller(key(at_once=1), "")):
        with pytest.raises(ApiError), limits.running_one(limits.caller(key(at_once=1), "")):
            pass
        with limits.running_one(limits.caller(key(at_once=2), "")):
            assert limits.running == 2
    assert (limits.running, limits.caller(key(at_once=2), "").running) == (0, 0)


def test_callers_are_forgotten_before_there_are_too_many() -> None:
    limits = Limits(LimitTerms(requests_minute=1))
    busy = limits.caller(None, "192.0.2.1")
    with limits.running_one(busy):
        for number in range(CALLERS_MAX + 10):
            limits.caller(None, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        assert len(limits) <= CALLERS_MAX
        assert limits.caller(None, "192.0.2.1") is busy, "who asks right now is not forgotten"
