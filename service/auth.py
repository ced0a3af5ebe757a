"""API keys: who may call, and what for. Values only; the rows are kept by `service.storage.store`."""

import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Literal, Protocol, get_args

import msgspec

from service.errors import NotAllowed, NotAuthenticated

Scope = Literal["chat", "feedback", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without its secret. Times are seconds since 1970-01-01 UTC."""

    id: str
    name: str = ""
    scopes: frozenset[Scope] = frozenset()
    created_at: float = 0.0
    revoked_at: float | None = None
    digest: str = ""  # of the secret

    def may(self, scope: Scope) -> bool:
        """Whether the key has a scope; `admin` has them all."""
        return scope in self.scopes or "admin" in self.scopes


LOCAL = Key(id="", name="this machine", scopes=frozenset({"admin"}))  # who calls from here while no key was made


def new_secret() -> str:
    """A new key's secret: shown once, never stored."""
    return "aw-" + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored of a secret: sha256, in hex.

    A slow hash guards secrets that can be guessed. Ours are 256 random bits, so a fast one is as safe.
    """
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def new_key(secret: str, name: str, scopes: Iterable[Scope], now: float) -> Key:
    """The key that `secret` will open, for `service.storage.store.insert_key(connection, key_row(key))`."""
    return Key(
        id=secrets.token_hex(8), name=name, scopes=frozenset(scopes), created_at=now, digest=digest(secret)
    )  # fmt: skip


def key_row(key: Key) -> dict[str, object]:
    """A key as its database row."""
    return {**msgspec.structs.asdict(key), "scopes": ",".join(sorted(key.scopes))}


def key_from_row(row: Mapping[str, Any]) -> Key:
    """A key from its database row."""
    columns = {str(name): value for name, value in row.items()}  # SQLAlchemy's names are no plain strings
    return msgspec.convert({**columns, "scopes": [scope for scope in row["scopes"].split(",") if scope]}, Key)


class Client(Protocol):
    """The other end of the connection, as the web framework tells it."""

    @property
    def host(self) -> str:
        """Its address."""
        ...


class Keyring:
    """All keys at one moment. Immutable: when keys are made or revoked, it is replaced."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._by_digest = {key.digest: key for key in keys}
        self._names = {key.id: key.name for key in self._by_digest.values()}

    def name_of(self, key_id: str) -> str:
        """The name of the key with an id; empty when there is none."""
        return self._names.get(key_id, "")

    def allow(self, headers: Mapping[str, str], client: Client | None, scope: Scope) -> Key:
        """The caller's key, when it may do this. `headers` by their names in small letters.

        Raises:
            NotAuthenticated: no key, or an unknown or revoked one.
            NotAllowed: the key lacks the scope; or no key exists and the caller is not on this machine.
        """
        if not self._by_digest and _came_through_others(headers):
            raise NotAllowed(_NO_KEY_YET)
        header = headers.get("authorization") or headers.get("x-api-key")
        key = self.authenticate(header, client.host if client else None)
        require(key, scope)
        return key

    def authenticate(self, header: str | None, client_host: str | None) -> Key:
        """The key that `header` shows: the value of `Authorization` (Bearer) or of `x-api-key`.

        While no key was ever made, callers on this machine need none and may do everything; others are refused.

        Raises:
            NotAuthenticated: no key, or an unknown or revoked one.
            NotAllowed: no key was made yet, and the caller is on another machine.
        """
        if not self._by_digest:
            if is_local(client_host):
                return LOCAL
            raise NotAllowed(_NO_KEY_YET)
        if not header:
            raise NotAuthenticated("No API key was sent. Send one as `Authorization: Bearer aw-...` or `x-api-key`.")
        secret = header[7:].strip() if header[:7].lower() == "bearer " else header.strip()
        key = self._by_digest.get(digest(secret))
        if key is None:
            raise NotAuthenticated("The API key is unknown. Keys are made with `armwise key create`.")
        if key.revoked_at is not None:
            raise NotAuthenticated(f"The API key {key.name!r} was revoked. Make a new one with `armwise key create`.")
        return key


def require(key: Key, scope: Scope) -> None:
    """Stop a key that lacks a scope.

    Raises:
        NotAllowed: with the scopes that the key has.
    """
    if not key.may(scope):
        held = ", ".join(sorted(key.scopes)) or "none"
        raise NotAllowed(f"The API key {key.name!r} lacks the scope {scope!r}; it has: {held}.")


def is_local(host: str | None) -> bool:
    """Whether a peer's address is this machine: loopback, or None or "" for a unix socket."""
    if not host:
        return True
    try:
        address = ip_address(host.partition("%")[0])  # an IPv6 zone is no part of the address
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


_NO_KEY_YET = (
    "No API key was made yet, so only callers on the server's own machine are served, at localhost or by its address. "
    "Make a key there with `armwise key create`."
)


def _came_through_others(headers: Mapping[str, str]) -> bool:
    """Whether a call that seems to be from this machine was passed on by a proxy, or sent by a page of another site.

    A site may point a name of its own at this machine, and is then no other site to the browser (DNS rebinding). So the
    call must be for `localhost` or for an address, which no site can take.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    return (
        "x-forwarded-for" in headers
        or "forwarded" in headers
        or headers.get("sec-fetch-site") == "cross-site"
        or not _is_nobodys_name(host)
        or (origin is not None and origin.partition("://")[2] != host)
    )


def _is_nobodys_name(host: str) -> bool:
    """Whether a Host header names no site: it is missing, `localhost`, or an IP address."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() in ("", "localhost") or name.lower().endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
