"""The dashboard shows an open breaker, and closes it by hand."""

import httpx
from playwright.sync_api import expect


def test_an_open_breaker_is_shown_and_closed_with_a_note(open_page, served):
    failing = {"model": "large", "messages": [{"role": "user", "content": "Hello"}], "simulate": {"fail": "timeout"}}
    for _ in range(5):
        assert httpx.post(f"{served.url}/v1/chat/completions", json=failing, timeout=30).status_code == 504
    watched = open_page()
    page = watched.open(served.url)
    line = page.get_by_role("region", name="Breakers by model").get_by_role("row").filter(has_text="large")
    expect(line).to_contain_text("5 failures in a row, the last: timeout")
    line.get_by_role("button", name="Close the breaker of large").click()
    page.get_by_label("Why").fill("a test")
    page.get_by_role("button", name="Do it").click()
    expect(line).to_contain_text("closed")
    expect(line.get_by_role("button")).to_have_count(0)
    newest = served.call("/v1/controls")["controls"][0]
    assert (newest["action"], newest["model"], newest["note"]) == ("close_breaker", "large", "a test")
    assert watched.errors == []


def test_a_decision_says_that_open_breakers_were_passed_over_and_what_a_dollar_cost(open_page, folder):
    settings = folder.path / "armwise.toml"
    priced = settings.read_text().replace('objective = "budget"\nusd_per_request = 0.01', "cost_weight = 2.5")
    settings.write_text(priced + "\n[breakers]\nconsecutive_failures = 1\nwait_s = 300.0\n")
    with folder.serving() as served:
        for model in ("small", "medium", "large"):
            failing = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "simulate": {"fail": "timeout"}}
            assert httpx.post(f"{served.url}/v1/chat/completions", json=failing, timeout=30).status_code == 504
        told = served.chat("Who are you?")
        page = open_page().open(served.url)
        explorer = page.locator("section#decisions")
        explorer.get_by_label("Id").fill(told["id"])
        explorer.get_by_role("button", name="Search").click()
        expect(explorer.get_by_text("those with an open circuit breaker were let in")).to_be_visible()
        expect(explorer.get_by_text("A dollar cost 2.50 quality points.")).to_be_visible()
