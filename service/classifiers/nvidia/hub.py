"""Getting a model's files from a Hugging Face hub: resumed, verified, and put in place only when all are there.

Speaks the hub's HTTP interface itself: the hub's own library starts a broken download again from its first byte and
compares sizes, not contents. What is relied on (the headers of `HEAD /<repository>/resolve/<revision>/<file>`):
`X-Repo-Commit`, the commit of the revision; `X-Linked-ETag` and `X-Linked-Size` of a file in large file storage, its
sha256 and size; `ETag` of any other file, its git object id, which is a sha1 over content and size.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx
import msgspec

from service.errors import DownloadFailed

T = TypeVar("T")

REPOSITORY = "nvidia/prompt-task-and-complexity-classifier"
ENDPOINT = "https://huggingface.co"
NEEDED = ("config.json", "model.safetensors")
# Either of the first two gives the tokenizer; `open_checkpoint` says when neither is there.
OPTIONAL = (
    "tokenizer.json", "spm.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "README.md",
    "LICENSE",
)  # fmt: skip

FETCHED = "fetched.json"  # beside the weights: where they are from
_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before attempts that follow a failed one without any new byte
_LONGEST_PAUSE_S = 60.0
_CHUNK_BYTES = 1 << 20
_REDIRECTS = 5
_MARGIN_BYTES = 64 << 20  # left free on the disk

Progress = Callable[[int], None]  # told the bytes that there are more than before; negative when some were thrown away


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file as the hub describes it."""

    name: str
    size: int
    digest: str  # sha256, 64 hex digits, or git's object id, 40


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch would do."""

    folder: Path
    repository: str
    commit: str
    files: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]  # those of `files` that are not in the folder yet, or differ
    bytes_missing: int  # of the missing ones; the progress of a download ends there
    bytes_left: int  # less what an earlier, broken fetch has left


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in `fetched.json`: which files of which commit lie in a folder."""

    repository: str
    commit: str
    endpoint: str
    fetched_at: str
    files: dict[str, str]  # name to digest


class _Interrupted(Exception):
    """The hub did not answer, or stopped in the middle: worth another attempt."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class Hub:
    """A Hugging Face hub, or anything that speaks like one.

    Args:
        endpoint: where it is; a mirror's address, or a proxy's in your network.
        token: sent to the endpoint alone, never to where it redirects, and over TLS or to this machine only.
        pauses: seconds to wait before each further attempt when nothing new arrives.

    Raises:
        DownloadFailed: by all methods, in a sentence that says what to do.
    """

    def __init__(self, endpoint: str = ENDPOINT, token: str = "", pauses: tuple[float, ...] = _PAUSES) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._pauses = pauses
        where = urlsplit(self.endpoint)
        if where.scheme not in {"http", "https"} or not where.hostname:
            raise DownloadFailed(f"The hub's address is `{endpoint}`; expected one like {ENDPOINT}.")
        # Without `identity` a text file may come compressed, and neither its size nor a range would be the file's.
        headers = {"accept-encoding": "identity", "user-agent": "armwise"}
        if token:
            if where.scheme != "https" and where.hostname not in {"127.0.0.1", "::1", "localhost"}:
                raise DownloadFailed(
                    f"HF_TOKEN is not sent to {self.endpoint}: the connection is not encrypted. "
                    "Use an address that begins with https, or unset HF_TOKEN."
                )
            headers["authorization"] = f"Bearer {token}"
        self._has_token = bool(token)
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(30.0, connect=10.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def plan(self, folder: Path, repository: str = REPOSITORY, revision: str = "main") -> Plan:
        """What is there, and what of it the folder lacks. Reads only."""
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise DownloadFailed(f"`{repository}` is not a repository's name; expected one like {REPOSITORY}.")
        files = []
        commit = ""
        for name in (*NEEDED, *OPTIONAL):
            # All files are asked for by the first one's commit: a push in between cannot mix two versions.
            found = self._attempts(partial(self._describe, repository, commit or revision, name))
            if found is None and name in NEEDED:
                raise DownloadFailed(
                    f"{self.endpoint}/{repository} has no file {name} at revision {revision}, so it is not a "
                    f"classifier like {REPOSITORY}."
                )
            if found is not None:
                commit, file = found
                files.append(file)
        missing = tuple(file for file in files if not holds(folder / file.name, file))
        size = sum(file.size for file in missing)
        return Plan(
            folder=folder,
            repository=repository,
            commit=commit,
            files=tuple(files),
            missing=missing,
            bytes_missing=size,
            bytes_left=size - sum(min(file.size, _size(_partial(folder, file))) for file in missing),
        )

    def text(self, plan: Plan, name: str) -> str | None:
        """A short text file of the planned commit; None when there is none."""
        if not any(file.name == name for file in plan.files):
            return None

        def get() -> str:
            with self._get(self._url(plan.repository, plan.commit, name)) as response:
                return response.read().decode("utf-8", "replace")

        return self._attempts(get)

    def download(self, plan: Plan, progress: Progress) -> Fetched:
        """Do what is planned. The folder changes only when every file has arrived and was verified.

        What a broken download leaves is continued by the next one, as long as the hub's file stays the same.
        """
        plan.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(plan.folder).free
        if free < plan.bytes_left + _MARGIN_BYTES:
            raise DownloadFailed(
                f"{plan.folder} has {free / 1e6:,.0f} MB free, {(plan.bytes_left + _MARGIN_BYTES) / 1e6:,.0f} are "
                "needed. Free some space, or choose another folder with --to."
            )
        with _alone(plan.folder):
            try:
                for file in plan.missing:
                    self._fetch(plan, file, progress)
                for file in plan.missing:
                    _partial(plan.folder, file).replace(plan.folder / file.name)
            except OSError as error:
                raise DownloadFailed(f"{plan.folder} cannot be written: {error}.") from error
            fetched = Fetched(
                repository=plan.repository,
                commit=plan.commit,
                endpoint=self.endpoint,
                fetched_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                files={file.name: file.digest for file in plan.files},
            )
            write_json(plan.folder / FETCHED, fetched)
        return fetched

    def _fetch(self, plan: Plan, file: RemoteFile, progress: Progress) -> None:
        """One file into its partial file, verified."""
        grown = _partial(plan.folder, file)
        for old in plan.folder.glob(f".{file.name}.*.partial"):
            if old != grown:  # of another version
                old.unlink()
        url = self._url(plan.repository, plan.commit, file.name)
        # A second time from the first byte: the part that an earlier download left may have been the wrong one.
        for resumed in (_size(grown) > 0, False):
            self._receive(url, file, grown, progress)
            if holds(grown, file):
                return
            progress(-_size(grown))
            grown.unlink()
            if not resumed:
                break
        raise DownloadFailed(
            f"{file.name} of {plan.repository} arrived with a wrong checksum and was thrown away. The hub says "
            f"{file.digest}. Try again; if it stays so, the file changed on its way: check a proxy or a mirror."
        )

    def _receive(self, url: str, file: RemoteFile, grown: Path, progress: Progress) -> None:
        failures = 0
        grown.touch()
        progress(_size(grown))
        while (had := _size(grown)) < file.size:
            try:
                self._receive_once(url, file, grown, progress)
                if _size(grown) < file.size:
                    raise _Interrupted("the connection ended early")  # noqa: TRY301 - like any other interruption
            except _Interrupted as error:
                failures = failures + 1 if _size(grown) <= had else 0
                self._pause(failures, error, f" What has arrived of {file.name} is kept: the same command continues.")

    def _receive_once(self, url: str, file: RemoteFile, grown: Path, progress: Progress) -> None:
        had = _size(grown)
        with self._get(url, {"range": f"bytes={had}-"} if had else {}) as response:
            begins = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
            if response.status_code != httpx.codes.PARTIAL_CONTENT or begins is None or int(begins[1]) != had:
                progress(-had)  # a server that knows no ranges sends all of it
                had = 0
            with grown.open("r+b" if had else "wb") as out:
                out.seek(had)
                for chunk in response.iter_bytes():
                    out.write(chunk)
                    progress(len(chunk))
                    if out.tell() > file.size:
                        break  # too long: the checksum will say so
                out.flush()
                os.fsync(out.fileno())

    def _describe(self, repository: str, revision: str, name: str) -> tuple[str, RemoteFile] | None:
        """A file's commit and description; None when the repository has no such file."""
        url = self._url(repository, revision, name)
        headers: dict[str, str] = {}
        for _ in range(_REDIRECTS):
            with _transport(self.endpoint):
                response = self._client.head(url)
            if response.headers.get("x-error-code") == "EntryNotFound":
                return None
            self._check(response, repository, revision)
            headers = {**headers, **response.headers}  # a redirect inside the hub may carry what the last one lacks
            target = urljoin(url, response.headers.get("location", ""))
            if not response.is_redirect or "x-linked-etag" in headers or _host(target) != _host(url):
                break
            url = target
        commit = headers.get("x-repo-commit", "")
        digest = (headers.get("x-linked-etag") or headers.get("etag", "")).removeprefix("W/").strip('"')
        size = headers.get("x-linked-size") or headers.get("content-length", "")
        if not re.fullmatch(r"[0-9a-f]{40}", commit) or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest):
            raise DownloadFailed(
                f"{self.endpoint} names no commit or no checksum for {name}, so it is not a Hugging Face hub, and what "
                "it sends could not be verified. Check HF_ENDPOINT, or a proxy in between."
            )
        if not size.isdecimal():
            raise DownloadFailed(f"{self.endpoint} does not say how large {name} is. Check HF_ENDPOINT.")
        return commit, RemoteFile(name=name, size=int(size), digest=digest)

    @contextlib.contextmanager
    def _get(self, url: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        with (
            _transport(self.endpoint),
            self._client.stream("GET", url, headers=headers, follow_redirects=True) as response,
        ):
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _Interrupted("the hub refused to continue where the download broke off")
            self._check(response, url, "")
            yield response

    def _check(self, response: httpx.Response, repository: str, revision: str) -> None:
        """Raise what a status means."""
        status = response.status_code
        if status < 400:
            return
        code = response.headers.get("x-error-code", "")
        if status in {408, 429} or status >= 500:
            asked = response.headers.get("retry-after", "")
            pause = min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() else 0.0
            raise _Interrupted(f"it answered {status}", pause)
        if status == 404 and code == "RevisionNotFound":
            raise DownloadFailed(f"{repository} has no revision {revision}.")
        if code == "GatedRepo" or status == 403:
            hint = "with the account of HF_TOKEN" if self._has_token else "and set HF_TOKEN to a token of that account"
            raise DownloadFailed(
                f"{self.endpoint} refuses {repository} ({status}). Accept its conditions on its page, {hint}."
            )
        if status in {401, 404}:
            token = (
                "the token in HF_TOKEN may not read it, or is no longer valid"
                if self._has_token
                else "it needs a token, which is read from HF_TOKEN"
            )
            raise DownloadFailed(
                f"{self.endpoint} knows no repository {repository} ({status}). Either the name is wrong, or {token}."
            )
        raise DownloadFailed(f"{self.endpoint} answered {status} for {repository}; expected the file.")

    def _url(self, repository: str, revision: str, name: str) -> str:
        return f"{self.endpoint}/{repository}/resolve/{quote(revision, safe='')}/{quote(name)}"

    def _attempts(self, ask: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return ask()
            except _Interrupted as error:
                failures += 1
                self._pause(failures, error, "")

    def _pause(self, failures: int, error: _Interrupted, kept: str) -> None:
        if failures > len(self._pauses):
            raise DownloadFailed(
                f"{self.endpoint} cannot be read: {str(error).rstrip('.')}. Attempts: {failures}.{kept}"
            ) from error
        if failures:
            time.sleep(max(self._pauses[failures - 1], error.pause_s))


def holds(path: Path, file: RemoteFile) -> bool:
    """Whether a local file is, to the last bit, the one that the hub describes."""
    if _size(path) != file.size or not path.is_file():
        return False
    with path.open("rb") as content:
        if len(file.digest) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.digest
        git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        while chunk := content.read(_CHUNK_BYTES):
            git.update(chunk)
    return git.hexdigest() == file.digest


def read_fetched(folder: Path) -> Fetched | None:
    """Where the weights in a folder are from; None when they were not fetched by us."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / FETCHED).read_bytes(), type=Fetched)
    return None


def write_json(path: Path, value: object) -> None:
    """Write a small file whole or not at all."""
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    whole.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    whole.replace(path)


def _partial(folder: Path, file: RemoteFile) -> Path:
    """Where a file grows. Its name holds the digest: another version is never continued with."""
    return folder / f".{file.name}.{file.digest[:16]}.partial"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


@contextlib.contextmanager
def _transport(endpoint: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise _Interrupted(str(error) or type(error).__name__) from error
    except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise DownloadFailed(f"{endpoint} cannot be read: {error}. Check HF_ENDPOINT.") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second fetch out of the folder, which would write into the same partial files."""
    if sys.platform == "win32":
        yield
        return
    import fcntl  # noqa: PLC0415 - not on Windows

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DownloadFailed(f"Another fetch is writing to {folder}. Wait for it, or choose another folder.") from None
    else:
        yield
    finally:
        os.close(handle)
