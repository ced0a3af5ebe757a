"""The operator's page in a real browser: what every panel shows, and what it must never do."""

import pytest
from playwright.sync_api import expect

from tests.browser.pages import MARKUP, PANELS


@pytest.fixture
def watched(open_page):
    return open_page()


@pytest.fixture
def page(watched, served):
    return watched.open(served.url)


def panel(page, name):
    return page.locator(f"section#{name}")


def test_every_panel_shows_data_after_requests_with_thumbs(page):
    found = {name: panel(page, name).get_attribute("data-state") for name in PANELS}
    assert found == dict.fromkeys(PANELS, "shown")
    for name in ("shares", "posteriors", "feedback", "money"):
        assert panel(page, name).locator("canvas, svg").count() == 1
    for name in ("posteriors", "reliability", "drift", "heuristics", "decisions"):
        assert panel(page, name).locator("table tbody tr").count() > 0
    expect(panel(page, "budget")).to_contain_text("granted so far")
    expect(panel(page, "worth")).to_contain_text("on the same mix of task types")


def test_the_figures_are_those_of_the_service(page, served):
    stats = served.call("/stats")
    assert page.locator("#totals .tile", has_text="Requests").locator("dd").inner_text() == str(stats["calls"])
    cells = served.call("/v1/posteriors?task_type=Code%20Generation")["cells"]
    best = max(cells, key=lambda cell: cell["p_best"])
    page.get_by_label("Task type").first.select_option("Code Generation")
    learned = panel(page, "posteriors")
    expect(learned).to_contain_text(f"Code Generation: {best['model']} is the best")
    for cell in cells:
        row = learned.locator(".scroll tbody tr", has_text=cell["model"])
        expect(row).to_contain_text(f"{cell['mean']:.3f}")


def test_nothing_fails_and_nothing_is_asked_elsewhere(watched, served):
    watched.open(served.url)
    assert watched.errors == []
    assert len(watched.asked) > 20
    assert [url for url in watched.asked if not url.startswith((served.url + "/", "data:"))] == []


def test_the_playground_answers_tells_why_and_takes_a_thumb(page, served):
    play = panel(page, "playground")
    play.get_by_label("Prompt").fill("Write a Python function that reverses a list.")
    play.get_by_role("button", name="Only decide").click()
    expect(play).to_contain_text("Would be chosen")
    expect(play.locator("tbody tr")).to_have_count(3)
    play.get_by_role("button", name="Send").click()
    expect(play.locator(".reply")).to_contain_text("simulated reply")
    play.get_by_role("button", name="Good reply").click()
    expect(play).to_contain_text("Thank you: recorded.")
    play.get_by_role("button", name="Explain step by step").click()
    title = page.locator(".explained h3")
    expect(title).to_contain_text("Decision chatcmpl-")
    told = served.call("/v1/decisions/" + title.inner_text().removeprefix("Decision "))
    assert [(given["value"], given["user"]) for given in told["rewards"] if given["source"] == "user"] == [
        (1.0, "dashboard")
    ]


def test_a_prompt_that_is_missing_is_not_sent(page):
    play = panel(page, "playground")
    play.get_by_role("button", name="Send").click()
    expect(play.locator(".reply")).to_have_count(0)


def test_the_explorer_lists_searches_and_explains(page, served):
    explorer = panel(page, "decisions")
    expect(explorer.locator("tbody tr")).to_have_count(20)
    newest = explorer.locator("tbody tr").first.inner_text()
    explorer.get_by_role("button", name="Older").click()
    expect(explorer.locator("tbody tr").first).not_to_have_text(newest)
    explorer.get_by_label("Model").fill("small")
    explorer.get_by_role("button", name="Search").click()
    expect(explorer.locator("tbody tr td:nth-child(2)", has_text="large")).to_have_count(0)
    explorer.get_by_label("Id").fill(served.strange)
    explorer.get_by_role("button", name="Search").click()
    steps = explorer.locator(".steps > li h4")
    expect(steps).to_have_text(
        ["What was read of the prompt", "Who could serve", "What each offered", "The draw", "The calls", "The outcome",
         "Again"]
    )  # fmt: skip
    expect(explorer).to_contain_text("the same, bit for bit")
    expect(explorer).not_to_contain_text("Limits:")  # nobody set any


def test_an_explanation_that_comes_late_does_not_replace_a_later_one(page):
    explorer, held = panel(page, "decisions"), []
    buttons = explorer.get_by_role("button", name="Explain chatcmpl-")
    first, second = (buttons.nth(place).get_attribute("aria-label").removeprefix("Explain ") for place in (0, 1))
    page.route(f"**/v1/decisions/{first}", lambda route: held.append(route))  # noqa: PLW0108 - wrapped by Playwright
    buttons.nth(0).click()
    buttons.nth(1).click()
    expect(page.locator(".explained h3")).to_have_text(f"Decision {second}")
    with page.expect_response(f"**/v1/decisions/{first}") as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("new Promise((done) => setTimeout(done))")
    expect(page.locator(".explained h3")).to_have_text(f"Decision {second}")


def test_the_task_type_with_most_labels_is_named_as_it_changes(page, served):
    cells = [{**cell, "n": float(cell["task_type"] == "Extraction")} for cell in served.call("/v1/posteriors")["cells"]]
    page.route("**/v1/posteriors", lambda route: route.fulfill(json={"cells": cells}))
    picker = panel(page, "posteriors").get_by_label("Task type")
    picker.select_option("Rewrite")
    expect(panel(page, "posteriors")).to_contain_text("Rewrite: ")
    page.wait_for_timeout(4_500)  # so long the page asks for the same once
    picker.select_option("")
    expect(panel(page, "posteriors")).to_contain_text("Extraction: ")
    expect(picker.locator("option").first).to_have_text("Most labels (Extraction)")


def test_an_id_that_nobody_made_is_told(page):
    explorer = panel(page, "decisions")
    explorer.get_by_label("Id").fill("chatcmpl-nothing")
    explorer.get_by_role("button", name="Search").click()
    expect(explorer.get_by_role("alert")).to_contain_text("No decision has the id")


def test_what_strangers_send_is_text(page, watched, served):
    explorer = panel(page, "decisions")
    explorer.get_by_label("Id").fill(served.strange)
    explorer.get_by_role("button", name="Search").click()
    expect(explorer.locator(".explained")).to_contain_text(MARKUP)  # the user, the session, the comment
    expect(panel(page, "drift")).to_contain_text(MARKUP)  # the note of an event
    assert page.locator("img").count() == 0
    assert page.evaluate("() => window.broken") is None
    assert watched.errors == []


@pytest.mark.parametrize(
    ("word", "shown_in"), [("large", ("shares", "posteriors", "money", "reliability", "heuristics", "decisions"))]
)
def test_names_are_text_wherever_they_come_from(open_page, served, word, shown_in):
    watched = open_page()

    def disguised(route):
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace(f'"{word}"', f'"{MARKUP}"'))

    watched.page.route("**/v1/**", disguised)
    watched.page.route("**/stats*", disguised)
    watched.page.route("**/ready", disguised)
    page = watched.open(served.url)
    for name in shown_in:
        expect(panel(page, name)).to_contain_text(MARKUP)
    assert page.locator("img").count() == 0
    assert page.evaluate("() => window.broken") is None
    assert watched.errors == []


def test_the_page_allows_no_script_but_its_own(page):
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.inline = 1";
        document.body.append(script);
    }""")
    assert page.evaluate("() => window.inline") is None


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_in_one_direction_only(open_page, served, width, dark):
    watched = open_page(width, 800, dark=dark)
    page = watched.open(served.url)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    panel(page, "decisions").get_by_role("button", name="Explain").first.click()
    expect(page.locator(".explained")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert watched.errors == []


def test_everything_can_be_reached_with_the_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        found = page.evaluate("""() => {
            const one = document.activeElement;
            return [one.tagName, one.closest("section")?.id ?? "", one.textContent.trim().slice(0, 40)];
        }""")
        if found[0] == "BODY":
            break
        reached.add(tuple(found))
    buttons = {text for tag, _, text in reached if tag == "BUTTON"}
    assert {"Use key", "Search", "Send", "Only decide", "Apply", "Switch learned decisions off"} <= buttons
    assert {where for _, where, _ in reached} >= {"posteriors", "money", "decisions", "playground", "controls"}


def test_every_chart_and_field_has_words(page):
    unnamed = page.evaluate("""() => {
        const named = (one) => one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
            || one.labels?.length || one.textContent.trim();
        const all = [...document.querySelectorAll("[role=img], section, input, select, textarea, button")];
        return all.filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 80));
    }""")
    assert unnamed == []
    for name in ("shares", "posteriors", "money", "feedback"):
        assert len(panel(page, name).get_by_role("img").first.get_attribute("aria-label")) > 30


def test_a_control_asks_first_and_can_be_left(page, served):
    controls = panel(page, "controls")
    before = len(served.call("/v1/controls")["controls"])
    controls.get_by_role("combobox", name="Model").select_option("small")
    controls.get_by_role("button", name="Apply").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("freeze: small, all task types?")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert len(served.call("/v1/controls")["controls"]) == before


def test_controls_are_done_with_their_note(page, served):
    controls = panel(page, "controls")
    controls.get_by_role("button", name="Switch learned decisions off").click()
    page.get_by_label("Why").fill("a test")
    page.get_by_role("button", name="Do it").click()
    expect(controls).to_contain_text("Learned decisions are off")
    newest = served.call("/v1/controls")["controls"][0]
    assert (newest["action"], newest["note"]) == ("off", "a test")
    controls.get_by_role("button", name="Switch learned decisions on").click()
    page.get_by_role("button", name="Do it").click()
    expect(controls).to_contain_text("Learned decisions are on")
    assert served.call("/v1/controls")["off"] is False


def test_a_model_is_taken_out_of_service_and_back(page, served):
    controls = panel(page, "controls")
    controls.get_by_role("button", name="Disable medium").click()
    expect(page.get_by_role("dialog")).to_contain_text("No request is sent to it")
    page.get_by_role("button", name="Do it").click()
    expect(controls.get_by_role("row", name="medium out of service")).to_be_visible()
    expect(page.locator("#said")).to_have_text("Disable medium: done.")
    expect(controls.get_by_role("heading", name="Controls")).to_be_focused()  # the button it was on is gone
    assert served.chat("Who are you?")["routing"]["excluded"] == {"medium": "switched off by the owner"}
    controls.get_by_role("button", name="Enable medium").click()
    page.get_by_role("button", name="Do it").click()
    expect(controls.get_by_role("row", name="medium in service")).to_be_visible()
    assert served.chat("Who are you?")["routing"]["excluded"] == {}


def test_an_experiment_is_paused_and_started_with_a_reason(page, served):
    shown = panel(page, "experiments")
    expect(shown.locator(".badge")).to_have_text("running")
    shown.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("dialog")).to_contain_text("Pause thrift?")
    page.get_by_label("Why").fill("a look first")
    page.get_by_role("button", name="Do it").click()
    expect(shown.locator(".badge")).to_have_text("paused")
    assert served.call("/v1/experiments/thrift")["log"][-1]["note"] == "a look first"
    shown.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Do it").click()
    expect(shown.locator(".badge")).to_have_text("running")


def test_the_interval_of_an_experiment_is_drawn_over_time(open_page, served):
    watched = open_page()
    found = served.call("/v1/experiments/thrift/report")
    looks = [
        {"at": 1.8e9 + 60 * n, "variant": "thrifty", "units": 10 * n, "estimate": 0.02, "low": -1 / n, "high": 1 / n}
        for n in range(1, 31)
    ]
    watched.page.route("**/thrift/report", lambda route: route.fulfill(json={**found, "looks": looks}))
    page = watched.open(served.url)
    drawn = panel(page, "experiments").get_by_role(
        "img", name="Difference of thrifty to the control in thrift, 30 looks"
    )
    expect(drawn).to_have_attribute("aria-label", "Difference of thrifty to the control in thrift, 30 looks. "
                                    "Latest: +0.020 [-0.033, 0.033] on 300 units.")  # fmt: skip
    expect(drawn.locator("canvas")).to_have_count(1)


def test_what_the_holdout_measured_is_the_headline(open_page, served):
    watched = open_page()
    stats = served.call("/stats")
    assert stats["holdout"] is None
    measured = {"value": 0.031, "low": 0.012, "high": 0.05, "sentence": "Routing beats `large` by +0.031."}
    watched.page.route("**/stats*", lambda route: route.fulfill(json={**stats, "holdout": measured}))
    page = watched.open(served.url)
    expect(panel(page, "worth").locator(".headline").first).to_have_text("+0.031")
    expect(panel(page, "worth")).to_contain_text("Measured: Routing beats `large` by +0.031.")


def test_the_key_stays_in_the_tab_and_is_sent_with_every_call(open_page, served):
    watched = open_page()
    seen = []
    watched.page.on("request", lambda request: seen.append(request.headers.get("authorization")))
    page = watched.open(served.url)
    page.get_by_label("API key").fill("aw-of-this-tab")
    seen.clear()
    with page.expect_response("**/v1/controls"):
        page.get_by_role("button", name="Use key").click()
    watched.settled()
    assert set(seen) == {"Bearer aw-of-this-tab"}
    assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
    assert "aw-of-this-tab" not in page.url


def test_a_panel_that_fails_says_why_and_is_asked_again(open_page, served):
    watched = open_page()
    refusal = {"error": {"message": "No API key was sent.", "type": "authentication_error"}}
    watched.page.route("**/v1/heuristics", lambda route: route.fulfill(status=401, json=refusal))
    page = watched.open(served.url)
    failed = panel(page, "heuristics")
    expect(failed.get_by_role("alert")).to_contain_text("No API key was sent. Enter an API key at the top of the page.")
    assert panel(page, "posteriors").get_attribute("data-state") == "shown"
    watched.page.unroute("**/v1/heuristics")
    failed.get_by_role("button", name="Try again").click()
    expect(failed).to_contain_text("Calibration")
