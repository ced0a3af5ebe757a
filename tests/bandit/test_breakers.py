"""The breaker of one arm: what opens it, how long, who may try, what closes it; it never stays open for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bandit.breakers import LONGEST_TOLD_S, Breaker, Tolerance

BEARS = Tolerance(
    failure_share=0.5, window_s=60.0, min_calls=4, consecutive_failures=3, wait_s=5.0, max_wait_s=20.0, trials=1
)
ONLY_SHARE = replace(BEARS, consecutive_failures=1_000)


def fail(breaker, now, tolerance=BEARS, *, jitter=0.0, kind="timeout"):
    """A call is begun and fails at once."""
    breaker, call = breaker.begun(now, tolerance, 10.0)
    return breaker.failed(call, now, tolerance, kind=kind, jitter=jitter)


def succeed(breaker, now, tolerance=BEARS):
    """A call is begun and succeeds at once."""
    breaker, call = breaker.begun(now, tolerance, 10.0)
    return breaker.succeeded(call, now, tolerance)


def told(breaker, now, seconds, *, jitter=0.0):
    """A call is begun and the provider asks to wait."""
    breaker, call = breaker.begun(now, BEARS, 10.0)
    return breaker.told_to_wait(call, now, seconds, jitter=jitter)


@pytest.fixture
def opened():
    """Opened at 100 by three failures: until 105."""
    breaker = Breaker()
    for _ in range(3):
        breaker = fail(breaker, 100.0)
    assert breaker.state(100.0) == "open"
    return breaker


# Opening


def test_failures_in_a_row_open_it_and_say_so(opened):
    assert opened.why == "3 failures in a row, the last: timeout"
    assert (opened.since, opened.until) == (100.0, 105.0)
    assert not opened.lets_through(104.9, BEARS)


def test_a_success_between_ends_the_row():
    breaker = fail(succeed(fail(fail(Breaker(), 1.0), 2.0), 3.0), 200.0)
    assert breaker.state(200.0) == "closed"
    assert breaker.in_a_row == 1


def test_a_row_may_take_any_time():
    breaker = fail(fail(fail(Breaker(), 0.0), 10_000.0), 20_000.0)
    assert breaker.state(20_000.0) == "open"


def test_half_of_enough_calls_opens_it():
    breaker = succeed(fail(succeed(Breaker(), 1.0, ONLY_SHARE), 2.0, ONLY_SHARE), 3.0, ONLY_SHARE)
    assert breaker.state(3.0) == "closed"
    breaker = fail(breaker, 4.0, ONLY_SHARE, kind="server_error")
    assert breaker.state(4.0) == "open"
    assert breaker.why == "2 of 4 calls failed, the last: server_error"


def test_all_of_too_few_calls_do_not():
    breaker = fail(fail(fail(Breaker(), 1.0, ONLY_SHARE), 2.0, ONLY_SHARE), 3.0, ONLY_SHARE)
    assert breaker.state(3.0) == "closed"


def test_less_than_the_share_does_not():
    breaker = Breaker()
    for now in range(50):
        breaker = succeed(succeed(fail(breaker, now, ONLY_SHARE), now, ONLY_SHARE), now, ONLY_SHARE)
    assert breaker.state(50.0) == "closed"


@pytest.mark.parametrize(("later", "state"), [(0.0, "open"), (29.9, "open"), (59.9, "open"), (60.0, "closed")])
def test_the_window_forgets_by_halves(later, state):
    """Three failures at 0, one after so many seconds: four within the window are enough, alone they are not."""
    breaker = fail(fail(fail(Breaker(since=0.0), 0.0, ONLY_SHARE), 0.0, ONLY_SHARE), 0.0, ONLY_SHARE)
    assert fail(breaker, later, ONLY_SHARE).state(later) == state


def test_what_began_before_it_opened_says_nothing_of_now(opened):
    breaker, early = Breaker().begun(99.0, BEARS, 10.0)
    for _ in range(3):
        breaker = fail(breaker, 100.0)
    assert breaker == opened
    assert breaker.failed(early, 106.0, BEARS, kind="timeout", jitter=0.0) == breaker
    assert breaker.succeeded(early, 106.0, BEARS) == breaker


# Waiting


def test_each_trial_that_fails_doubles_the_wait_up_to_the_longest(opened):
    waits, breaker, now = [], opened, 100.0
    for _ in range(4):
        waits.append(breaker.until - now)
        now = breaker.until
        breaker = fail(breaker, now)
        assert breaker.why == "a trial failed: timeout"
    assert waits == [5.0, 10.0, 20.0, 20.0]
    assert breaker.since == 100.0, "since it is not closed"


def test_closed_for_a_moment_it_waits_twice_as_long_and_closed_for_long_it_begins_again(opened):
    closed = succeed(opened, 105.0)
    soon, late = closed, closed
    for _ in range(3):
        soon, late = fail(soon, 164.0), fail(late, 166.0)
    assert soon.until - 164.0 == 10.0
    assert late.until - 166.0 == 5.0


def test_jitter_adds_up_to_a_quarter():
    breaker = fail(fail(Breaker(), 0.0), 0.0)
    assert fail(breaker, 0.0, jitter=0.5).until == 5.0 * 1.125
    assert told(Breaker(), 0.0, 40.0, jitter=0.5).until == 45.0


def test_it_waits_as_long_as_the_provider_asks():
    breaker = told(Breaker(), 10.0, 30.0)
    assert breaker.state(39.9) == "open"
    assert breaker.state(40.0) == "half-open"
    assert breaker.why == "the provider asked to wait 30 s"
    assert told(breaker, 20.0, 5.0).until == 40.0, "a shorter word does not shorten it"
    assert told(breaker, 20.0, 50.0).until == 70.0
    assert told(Breaker(), 0.0, 1e12).until == LONGEST_TOLD_S
    again = told(breaker, 40.0, 7.0)
    assert (again.until, again.wait_s) == (47.0, 0.0), "asked for, it is not doubled"


def test_the_providers_word_holds_also_when_the_call_is_old(opened):
    _, early = Breaker().begun(99.0, BEARS, 10.0)
    assert opened.told_to_wait(early, 101.0, 60.0, jitter=0.0).until == 161.0


# Trials


def test_one_trial_at_a_time_and_its_success_closes(opened):
    assert opened.state(105.0) == "half-open"
    trying, trial = opened.begun(105.0, BEARS, 10.0)
    assert not trying.lets_through(106.0, BEARS)
    closed = trying.succeeded(trial, 107.0, BEARS)
    assert closed.state(107.0) == "closed"
    assert (closed.since, closed.why, closed.trials) == (107.0, "", ())
    assert (closed.window.calls, closed.window.failures) == (1, 0)


def test_as_many_trials_as_are_allowed(opened):
    three = replace(BEARS, trials=3)
    breaker, calls = opened, []
    while breaker.lets_through(105.0, three):
        breaker, call = breaker.begun(105.0, three, 10.0)
        calls.append(call)
    assert len(calls) == 3
    assert breaker.released(calls[1]).lets_through(105.0, three)


def test_a_trial_that_says_nothing_frees_its_place(opened):
    trying, trial = opened.begun(105.0, BEARS, 10.0)
    free = trying.released(trial)
    assert free.lets_through(105.0, BEARS)
    assert free.state(105.0) == "half-open"


def test_a_trial_that_is_never_heard_of_again_is_given_up(opened):
    trying, _ = opened.begun(105.0, BEARS, 10.0)
    assert not trying.lets_through(114.9, BEARS)
    assert trying.lets_through(115.0, BEARS)


def test_the_first_words_of_a_stream_close_it_and_its_end_is_counted(opened):
    trying, trial = opened.begun(105.0, BEARS, 10.0)
    closed = trying.answered(trial, 106.0)
    assert closed.state(106.0) == "closed"
    broke_off = closed.failed(trial, 110.0, BEARS, kind="connection", jitter=0.0)
    assert (broke_off.state(110.0), broke_off.in_a_row, broke_off.window.failures) == ("closed", 1, 1)


def test_a_call_that_was_made_all_the_same_closes_it_or_changes_nothing(opened):
    same, call = opened.begun(102.0, BEARS, 10.0)
    assert same == opened
    assert same.failed(call, 103.0, BEARS, kind="timeout", jitter=0.0) == opened
    assert same.succeeded(call, 103.0, BEARS).state(103.0) == "closed"


def test_closed_by_hand_it_has_forgotten_everything(opened):
    trying, trial = opened.begun(105.0, BEARS, 10.0)
    closed = trying.closed(106.0)
    assert closed.state(106.0) == "closed"
    assert closed.failed(trial, 107.0, BEARS, kind="timeout", jitter=0.0) == closed
    for _ in range(3):
        closed = fail(closed, 108.0)
    assert closed.until == 113.0, "the first wait again"


# Whatever happens

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "offer", "succeed", "answer", "fail", "told", "release", "lose", "hand"]),
        st.floats(0.0, 40.0),  # seconds since the last one
        st.integers(0, 7),  # which of the calls under way
        st.floats(0.0, 0.999),
    ),
    max_size=60,
)


def ended(breaker, event, call, now, tolerance, jitter):
    """A call under way ends, or says something."""
    match event:
        case "succeed":
            return breaker.succeeded(call, now, tolerance)
        case "answer":
            return breaker.answered(call, now)
        case "fail":
            return breaker.failed(call, now, tolerance, kind="timeout", jitter=jitter)
        case "told":
            return breaker.told_to_wait(call, now, 1.0 + 4_000.0 * jitter, jitter=jitter)
        case _:
            return breaker.released(call)


@given(EVENTS, st.integers(1, 3))
def test_it_never_stays_open_nor_makes_more_trials_than_allowed(events, most):
    tolerance = replace(BEARS, trials=most)
    breaker, now, under_way, trying = Breaker(), 0.0, [], {}
    for event, later, which, jitter in events:
        now += later
        if event == "begin" or (event == "offer" and breaker.lets_through(now, tolerance)):
            breaker, call = breaker.begun(now, tolerance, 30.0)
            under_way.append(call)
            trying |= {call.trial: now + 30.0} if call.trial else {}
        elif event == "hand":
            breaker = breaker.closed(now)
        elif under_way and event != "offer":
            call = under_way.pop(which % len(under_way))
            if event == "lose":
                continue  # never heard of again
            breaker = ended(breaker, event, call, now, tolerance, jitter)
            trying.pop(call.trial, None)

        if breaker.until is None:
            trying = {}  # whatever is under way is a call like others now
            assert not breaker.why
            continue
        assert sum(until > now for until in trying.values()) <= most
        assert breaker.until <= now + 1.25 * LONGEST_TOLD_S
        assert breaker.lets_through(max(breaker.until, now + 30.0), tolerance)
        assert breaker.why


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.floats(0.1, 1.0), st.integers(1, 30), st.integers(1, 30))
def test_at_one_moment_it_opens_at_the_first_failure_that_is_too_many(failures, share, enough, row):
    """Against the plain count of all calls."""
    tolerance = replace(BEARS, failure_share=share, min_calls=enough, consecutive_failures=row)
    breaker = Breaker()
    for number, failed in enumerate(failures, start=1):
        breaker = fail(breaker, 1.0, tolerance) if failed else succeed(breaker, 1.0, tolerance)
        seen = failures[:number]
        in_a_row = len(seen) - max((place for place, bad in enumerate(seen, start=1) if not bad), default=0)
        too_many = failed and (in_a_row >= row or (number >= enough and sum(seen) >= share * number))
        assert (breaker.state(1.0) == "open") == too_many
        if too_many:
            break
