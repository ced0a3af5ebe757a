"""Every number of the page beside one that is worked out from the rows of the database, by other means."""

import math
import re
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from scipy import stats

from tests.browser.pages import Watched

UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}
VIEWS = """
    CREATE TEMP VIEW ratings AS SELECT r.value, r.created_at - d.created_at AS late FROM rewards r
    JOIN decisions d ON d.id = r.decision_id
    WHERE r.channel IN ('thumb', 'score') AND r.source NOT IN ('judge', 'quiz');
    CREATE TEMP VIEW answered AS SELECT *, coalesce(served_arm, arm) AS by FROM decisions;
"""


@pytest.fixture(scope="module")
def page(browser, served):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Watched(context.new_page()).open(served.url)
    context.close()


@pytest.fixture(scope="module")
def rows(served):
    """What a query says of the stored log."""

    def ask(query, *values):
        with closing(sqlite3.connect(served.log)) as log:
            log.executescript(VIEWS)
            return log.execute(query, values).fetchall()

    return ask


def number(text):
    """A number as the page writes it; times in seconds."""
    found = re.search(r"([−+-]?)\$?([\d,.]+)\s*(ms|min|s|%)?(?![\w])", text)
    value = float(found[2].replace(",", "")) * UNITS.get(found[3], 1.0)
    return -value if found[1] in ("−", "-") else value


def tile(page, name):
    return page.locator("#totals .tile", has_text=name).locator("dd").evaluate("one => one.firstChild.textContent")


def cells(page, panel, caption):
    """The texts of a table, by the first of each row."""
    found = page.locator(f"#{panel} table", has=page.locator("caption", has_text=re.compile(f"^{caption}")))
    texts = found.first.evaluate(
        "table => [...table.tBodies[0].rows].map(row => [...row.cells].map(c => c.textContent))"
    )
    return {first: rest for first, *rest in texts}


def test_totals(page, rows):
    [(requests, fallbacks, routing_s)] = rows(
        "SELECT count(*), total(served_arm <> arm), avg(routing_s) FROM decisions"
    )
    [(cost, failures, latency_s)] = rows("SELECT sum(cost_usd), total(outcome <> 'ok'), avg(latency_s) FROM attempts")
    [(ratings, mean)] = rows("SELECT count(*), avg(value) FROM ratings")
    assert number(tile(page, "Requests")) == requests > 150
    assert number(tile(page, "Cost")) == pytest.approx(cost, rel=0.01)
    assert number(tile(page, "Mean rating")) == pytest.approx(mean, abs=0.0006)
    assert number(tile(page, "Rated")) == pytest.approx(100 * ratings / requests, abs=0.51)
    assert number(tile(page, "Failed calls")) == failures > 0
    assert f"{fallbacks:.0f} fallbacks" in page.locator("#totals").inner_text()
    assert number(tile(page, "Latency")) == pytest.approx(latency_s, rel=0.06, abs=0.001)
    assert number(tile(page, "Routing")) == pytest.approx(routing_s, abs=0.00001)


def test_route_shares(page, rows):
    told = cells(page, "shares", "Requests by model")
    heads = page.locator("#shares table th[scope=col]").all_text_contents()[1:]
    counted = {model: sum(number(row[place]) for row in told.values()) for place, model in enumerate(heads)}
    expected = dict(rows("SELECT by, count(*) FROM answered GROUP BY 1"))
    assert counted == expected
    latest = max(hour for (hour,) in rows("SELECT DISTINCT CAST(created_at / 3600 AS INTEGER) FROM decisions"))
    of_hour = dict(rows(
        "SELECT by, count(*) FROM answered WHERE CAST(created_at / 3600 AS INTEGER) = ? GROUP BY 1", latest
    ))  # fmt: skip
    words = page.locator("#shares [role=img]").get_attribute("aria-label").partition("Latest: ")[2]
    for part in words.rstrip(".").split(", "):
        model, share = part.split(" ", 1)
        assert number(share) == pytest.approx(100 * of_hour.get(model, 0) / sum(of_hour.values()), abs=0.51)


def test_feedback_and_how_late_it_came(page, rows):
    told = cells(page, "feedback", "Feedback over time")
    [(ratings, late)] = rows("SELECT count(*), avg(late) FROM ratings")
    assert sum(number(row[1]) for row in told.values()) == ratings
    sentence = page.locator("#feedback p", has_text="after the request").inner_text()
    assert number(sentence.partition("came ")[2]) == pytest.approx(late, rel=0.06, abs=0.001)
    assert f"of {ratings}" in sentence


def test_reliability(page, rows):
    told = cells(page, "reliability", "Reliability by model")
    answered = dict(rows("SELECT by, count(*) FROM answered GROUP BY 1"))
    called = {arm: (calls, failed) for arm, calls, failed in rows(
        "SELECT arm, count(*), total(outcome <> 'ok') FROM attempts GROUP BY 1"
    )}  # fmt: skip
    for model, (requests, calls, failed, share, _, p50, p95) in told.items():
        assert number(requests) == answered[model]
        assert (number(calls), number(failed)) == called[model]
        assert number(share) == pytest.approx(100 * called[model][1] / called[model][0], abs=0.51)
        times = sorted(at for (at,) in rows("SELECT latency_s FROM attempts WHERE outcome = 'ok' AND arm = ?", model))
        for shown, share_of in ((p50, 0.5), (p95, 0.95)):
            place = share_of * (len(times) - 1)
            least, most = times[max(math.floor(place) - 1, 0)], times[min(math.ceil(place) + 1, len(times) - 1)]
            assert least / 1.5 <= number(shown) <= most * 1.5 + 0.01  # a class is 1.41 wide, the first 10 ms
    assert called["medium"][1] > 0


def test_what_was_learned(page, served, rows):
    """Means, intervals, labels, and the chance to be best: of 100,000 draws within .01 but once in a billion."""
    shown = page.locator("#posteriors p strong").locator("..").inner_text()
    task = shown.partition(":")[0]
    told = cells(page, "posteriors", "Quality on")
    found = {one["model"]: one for one in served.call("/v1/posteriors")["cells"] if one["task_type"] == task}
    labels = dict(rows(
        "SELECT arm, sum(weight) FROM rewards WHERE channel <> 'heuristic' AND channel <> 'reading' AND task_type = ? "
        "GROUP BY 1", task,
    ))  # fmt: skip
    draws = np.random.default_rng(3).beta(
        *np.array([[one["alpha"], one["beta"]] for one in found.values()]).T[:, :, None], (len(found), 100_000)
    )
    best = np.bincount(draws.argmax(axis=0), minlength=len(found)) / draws.shape[1]
    for place, (model, cell) in enumerate(found.items()):
        _, mean, interval, p_best, n, _ = told[model]
        belief = stats.beta(cell["alpha"], cell["beta"])
        assert number(mean) == pytest.approx(belief.mean(), abs=0.0006)
        assert interval == f"[{belief.ppf(0.025):.2f}, {belief.ppf(0.975):.2f}]"
        assert number(n) == pytest.approx(labels.get(model, 0), abs=0.51)
        assert number(p_best) / 100 == pytest.approx(best[place], abs=0.05)  # the policy's own estimate is normal
        assert number(p_best) / 100 == pytest.approx(cell["p_best"], abs=0.0051)


def test_value_over_the_best_fixed_model(page, served, rows):
    """The gain and its interval, beside 20,000 draws of every cell's quality."""
    beliefs = {(one["model"], one["task_type"]): one for one in served.call("/v1/posteriors")["cells"]}
    calls = rows("SELECT by, task_type, count(*) FROM answered GROUP BY 1, 2")
    total = sum(count for *_, count in calls)
    rng = np.random.default_rng(5)
    draws = {key: rng.beta(one["alpha"], one["beta"], 20_000) for key, one in beliefs.items()}

    def mean(model, task):
        one = beliefs[model, task]
        return one["alpha"] / (one["alpha"] + one["beta"])

    routed = sum(count / total * mean(model, task) for model, task, count in calls)
    alone = {
        model: sum(count / total * mean(model, task) for _, task, count in calls)
        for model in {key[0] for key in beliefs}
    }
    best = max(alone, key=alone.get)
    gains = sum(count / total * (draws[model, task] - draws[best, task]) for model, task, count in calls)
    worth = page.locator("#worth")
    assert number(worth.locator(".headline").inner_text()) == pytest.approx(routed - alone[best], abs=0.0011)
    words = worth.locator("p", has_text="95").first.inner_text()
    told = [number(part) for part in words.partition(":")[2].split(" to ")]
    expected = gains.mean() + 1.96 * gains.std() * np.array([-1, 1])
    assert told == pytest.approx(expected.tolist(), abs=0.003)
    assert np.mean((gains >= told[0]) & (gains <= told[1])) == pytest.approx(0.95, abs=0.025)  # of skewed draws
    sentence = worth.locator("p", has_text="as routed").first.inner_text()
    assert f"{best} alone" in sentence
    assert number(sentence.partition("quality: ")[2]) == pytest.approx(routed, abs=0.0011)


def test_quality_against_cost(page, served, rows):
    told = cells(page, "money", "Quality and cost by model")
    costs = dict(rows("SELECT arm, sum(cost_usd) FROM attempts GROUP BY 1"))
    answered = dict(rows("SELECT by, count(*) FROM answered GROUP BY 1"))
    mix = dict(rows("SELECT task_type, count(*) FROM decisions GROUP BY 1"))
    beliefs = {(one["model"], one["task_type"]): one for one in served.call("/v1/posteriors")["cells"]}
    for model, (quality, interval, cost, requests) in told.items():
        assert number(requests) == answered[model]
        assert number(cost) == pytest.approx(costs[model] / answered[model], rel=0.02)
        weights = np.array(list(mix.values())) / sum(mix.values())
        found = [stats.beta(beliefs[model, task]["alpha"], beliefs[model, task]["beta"]) for task in mix]
        mean = float(weights @ [one.mean() for one in found])
        half = 1.96 * float(np.sqrt(weights**2 @ [one.var() for one in found]))
        assert number(quality) == pytest.approx(mean, abs=0.0011)
        low, high = (float(part) for part in interval.strip("[]").split(", "))
        assert (low, high) == pytest.approx((max(mean - half, 0), min(mean + half, 1)), abs=0.0051)
