"""Keys: who gets in, and for what."""

import hashlib
import re

import pytest

from service.auth import (
    LOCAL,
    SCOPES,
    Key,
    Keyring,
    digest,
    is_local,
    key_from_row,
    key_row,
    new_key,
    new_secret,
    require,
)
from service.errors import NotAllowed, NotAuthenticated
from service.storage.tables import keys as keys_table

SECRET, OLD_SECRET = "aw-" + "s" * 43, "aw-" + "o" * 43
KEY = new_key(SECRET, "app", ["chat", "feedback"], now=10.0)
OLD = Key(id="old", name="old", scopes=frozenset({"admin"}), revoked_at=20.0, digest=digest(OLD_SECRET))
RING = Keyring([KEY, OLD])
HERE = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "::1%lo", "localhost", "", None]
ELSEWHERE = ["10.0.0.1", "0.0.0.0", "8.8.8.8", "::", "::ffff:10.0.0.1", "fe80::1%eth0", "example.org", "1270.0.0.1"]  # noqa: S104 - addresses to tell apart


class Client:
    def __init__(self, host):
        self.host = host


def test_a_secret_is_new_each_time_and_hard_to_guess():
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"aw-[A-Za-z0-9_-]{43}", secret) for secret in secrets)  # 32 bytes


def test_what_is_stored_is_the_sha256_of_the_secret():
    assert digest("aw-x") == hashlib.sha256(b"aw-x").hexdigest()
    assert SECRET not in repr(KEY)
    assert SECRET not in str(key_row(KEY))


def test_a_key_survives_its_database_row():
    assert key_from_row(key_row(KEY)) == KEY
    assert key_from_row(key_row(OLD)) == OLD
    assert key_row(KEY)["scopes"] == "chat,feedback"
    assert set(key_row(KEY)) == set(keys_table.columns.keys())
    assert key_from_row(key_row(Key(id="x"))).scopes == frozenset()


@pytest.mark.parametrize("header", [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER  {SECRET} ", SECRET])
def test_the_key_is_found_by_its_secret(header):
    assert RING.authenticate(header, "203.0.113.7") is KEY


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "No API key was sent"),
        ("", "No API key was sent"),
        ("Bearer ", "unknown"),
        ("Bearer aw-wrong", "unknown"),
        (f"Bearer {SECRET}x", "unknown"),
        (f"Basic {SECRET}", "unknown"),
        (f"Bearer {KEY.digest}", "unknown"),
        ("Bearer \udcff\x00ä", "unknown"),
        (f"Bearer {OLD_SECRET}", "'old' was revoked"),
    ],
)
def test_who_has_no_valid_key_stays_out_even_on_this_machine(header, words):
    for host in ("203.0.113.7", "127.0.0.1", None):
        with pytest.raises(NotAuthenticated, match=words) as caught:
            RING.authenticate(header, host)
        assert caught.value.status == 401
        assert "aw-" not in caught.value.message.replace("aw-...", "")  # what was sent is not shown


@pytest.mark.parametrize("host", HERE)
def test_before_any_key_was_made_this_machine_may_do_everything(host):
    for header in (None, "Bearer whatever-a-client-library-insists-on"):
        key = Keyring().authenticate(header, host)
        assert key is LOCAL
        assert key.id == ""
        for scope in SCOPES:
            require(key, scope)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_before_any_key_was_made_others_are_told_to_make_one(host):
    with pytest.raises(NotAllowed, match="armwise key create") as caught:
        Keyring().authenticate(None, host)
    assert caught.value.status == 403


def test_when_all_keys_are_revoked_nobody_gets_in():
    with pytest.raises(NotAuthenticated):
        Keyring([OLD]).authenticate(None, "127.0.0.1")


@pytest.mark.parametrize("host", HERE)
def test_addresses_of_this_machine(host):
    assert is_local(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_addresses_of_other_machines(host):
    assert not is_local(host)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_may_do_what_its_scopes_say_and_admin_everything(scope):
    require(Key(id="a", scopes=frozenset({scope})), scope)
    require(Key(id="a", scopes=frozenset({"admin"})), scope)
    others = Key(id="a", name="n", scopes=frozenset(SCOPES) - {scope, "admin"})
    with pytest.raises(NotAllowed, match=f"'n' lacks the scope '{scope}'") as caught:
        require(others, scope)
    assert caught.value.status == 403


def test_a_key_without_scopes_is_told_so():
    with pytest.raises(NotAllowed, match="it has: none"):
        require(Key(id="a"), "chat")


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {SECRET}"}, {"x-api-key": SECRET}])
def test_a_call_shows_its_key_in_either_header(headers):
    assert RING.allow(headers, Client("203.0.113.7"), "chat") is KEY
    with pytest.raises(NotAllowed):
        RING.allow(headers, Client("203.0.113.7"), "admin")


def test_a_call_over_a_unix_socket_is_from_this_machine():
    assert Keyring().allow({}, None, "admin") is LOCAL


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "203.0.113.7"},
        {"forwarded": "for=203.0.113.7"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin", "host": "rebound.example:8402"},  # a name that a site points here
        {"sec-fetch-site": "same-origin", "host": "rebound.example:8402", "origin": "http://rebound.example:8402"},
        {"host": "127.0.0.1.rebound.example"},
        {"host": "localhost.rebound.example:80"},
        {"host": "localhost:8402", "origin": "https://elsewhere.example"},
        {"host": "localhost:8402", "origin": "http://localhost:3000"},
        {"host": "localhost:8402", "origin": "null"},
    ],
)
def test_before_any_key_was_made_a_proxy_or_a_foreign_page_is_not_this_machine(headers):
    with pytest.raises(NotAllowed, match="armwise key create"):
        Keyring().allow(headers, Client("127.0.0.1"), "chat")
    keyed = headers | {"authorization": f"Bearer {SECRET}"}
    assert RING.allow(keyed, Client("127.0.0.1"), "chat") is KEY


@pytest.mark.parametrize(
    "host", ["localhost:8402", "LOCALHOST", "app.localhost:1", "127.0.0.1:8402", "127.1.2.3", "[::1]:8402", "[::1]", ""]
)
def test_before_any_key_was_made_this_machine_is_called_by_its_address(host):
    for headers in ({"host": host}, {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}):
        assert Keyring().allow(headers, Client("127.0.0.1"), "admin") is LOCAL


def test_a_replaced_keyring_forgets_a_revoked_key():
    later = Keyring([Key(id=KEY.id, name=KEY.name, scopes=KEY.scopes, revoked_at=30.0, digest=KEY.digest)])
    assert RING.authenticate(SECRET, None) is KEY
    with pytest.raises(NotAuthenticated, match="revoked"):
        later.authenticate(SECRET, None)
