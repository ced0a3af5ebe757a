"""The dashboard of a service with API keys, before anything was asked: what it says without one, and what each may."""

import json

from playwright.sync_api import expect

from tests.browser.pages import PANELS


def secret(folder, name, *scopes):
    """A new key of these scopes."""
    wanted = [word for scope in scopes for word in ("--scope", scope)]
    return json.loads(folder.armwise("key", "create", "--name", name, "--json", *wanted))["secret"]


def test_a_key_opens_what_it_may(folder, open_page):
    reader, owner = secret(folder, "reader", "read"), secret(folder, "owner", "admin")
    watched = open_page()
    page = watched.page
    with folder.serving() as served:
        watched.open(served.url)
        shown = page.locator("section.panel")
        refused = page.locator('section[data-state="failed"]')
        expect(refused).to_have_count(len(PANELS))
        for text in refused.get_by_role("alert").all_inner_texts():
            assert "No API key was sent" in text
            assert "Enter an API key at the top of the page." in text

        page.get_by_label("API key").fill(reader)
        page.get_by_label("API key").press("Enter")
        expect(refused).to_have_count(1)  # the playground needs another scope
        expect(page.locator("#playground").get_by_role("alert")).to_contain_text("lacks the scope 'chat'")
        expect(page.locator("#shares")).to_contain_text("No requests in this time.")
        expect(page.locator("#reliability")).to_contain_text("No requests in this time.")
        expect(page.locator("#reliability tbody tr")).to_have_count(3)  # breakers are told without any traffic
        expect(page.locator("#experiments")).to_contain_text("No experiment stands.")
        expect(page.locator("#drift")).to_contain_text("No model was found to have changed")
        expect(page.locator("#decisions")).to_contain_text("No decision fits this search.")
        page.get_by_role("button", name="Switch learned decisions off").click()
        page.get_by_role("button", name="Do it").click()
        expect(page.locator("#controls .told").first).to_contain_text("lacks the scope 'admin'")
        expect(page.locator("#controls")).to_contain_text("Learned decisions are on.")

        page.get_by_label("API key").fill(owner)
        page.get_by_role("button", name="Use key").click()
        expect(refused).to_have_count(0)
        page.get_by_role("button", name="Switch learned decisions off").click()
        page.get_by_role("button", name="Do it").click()
        expect(page.locator("#controls")).to_contain_text("Learned decisions are off")
        expect(page.locator("#controls table").last).to_contain_text("owner")
        expect(shown).to_have_count(len(PANELS))
        page.reload()
        watched.settled()
        expect(refused).to_have_count(0)  # the tab keeps its key
