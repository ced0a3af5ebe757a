"""Getting a model's files into a folder: resumed, verified, and put in place only when all are there."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from service.classifiers.nvidia.hub import Hub, Interrupted, RemoteFile
from service.classifiers.nvidia.records import FETCHED, read_record, write_record
from service.errors import DownloadFailed, UnusableWeights

REPOSITORY = "nvidia/prompt-task-and-complexity-classifier"
FOLDER = Path("data/nvidia-classifier")  # where the settings look for it
NEEDED = ("config.json", "model.safetensors")
# Either of the first two gives the tokenizer; `open_checkpoint` says when neither is there.
OPTIONAL = (
    "tokenizer.json", "spm.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "README.md",
    "LICENSE",
)  # fmt: skip

_NAME = r"[A-Za-z0-9][\w.-]*/[\w.-]+"  # of a repository
_CHUNK_BYTES = 1 << 20
_MARGIN_BYTES = 64 << 20  # left free on the disk

Progress = Callable[[int], None]  # told how many more bytes there are; negative when some were thrown away


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


def plan_fetch(hub: Hub, folder: Path, repository: str = REPOSITORY, revision: str = "main") -> Plan:
    """What is on the hub, and what of it the folder lacks. Reads only.

    Raises:
        DownloadFailed: the repository cannot be read, or is not that of a classifier.
    """
    if not re.fullmatch(_NAME, repository):
        raise DownloadFailed(f"`{repository}` is not a repository's name; expected one like {REPOSITORY}.")
    files = []
    commit = ""
    for name in (*NEEDED, *OPTIONAL):
        # All files are asked for by the first one's commit: a push in between cannot mix two versions.
        found = hub.describe(repository, commit or revision, name)
        if found is None and name in NEEDED:
            raise DownloadFailed(
                f"{hub.endpoint}/{repository} has no file {name} at revision {revision}, so it is not a classifier "
                f"like {REPOSITORY}."
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


def fetch(hub: Hub, plan: Plan, progress: Progress) -> Fetched:
    """Do what is planned. The folder changes only when every file has arrived and was verified.

    What a broken fetch leaves is continued by the next one, as long as the hub's file stays the same.

    Raises:
        DownloadFailed: a file did not arrive, or not as the hub describes it; no space; another fetch is at work.
    """
    try:
        return _fetch(hub, plan, progress)
    except OSError as error:
        raise DownloadFailed(f"{plan.folder} cannot be written: {error}. Choose another folder with --to.") from error


def _fetch(hub: Hub, plan: Plan, progress: Progress) -> Fetched:
    plan.folder.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(plan.folder).free, plan.bytes_left + _MARGIN_BYTES
    if free < needed:
        raise DownloadFailed(
            f"{plan.folder} has {free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} are needed. Free some space, or choose "
            "another folder with --to."
        )
    with _alone(plan.folder):
        for file in plan.missing:
            _fetch_verified(hub, plan, file, progress)
        for file in plan.missing:
            _partial(plan.folder, file).replace(plan.folder / file.name)
        fetched = Fetched(
            repository=plan.repository,
            commit=plan.commit,
            endpoint=hub.endpoint,
            fetched_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            files={file.name: file.digest for file in plan.files},
        )
        write_record(plan.folder / FETCHED, fetched)
    return fetched


def _fetch_verified(hub: Hub, plan: Plan, file: RemoteFile, progress: Progress) -> None:
    partial = _partial(plan.folder, file)
    for old in plan.folder.glob(f".{file.name}.*.partial"):
        if old != partial:  # of another version
            old.unlink()
    # A second time from the first byte: what an earlier fetch left may have been damaged since.
    for resumed in (_size(partial) > 0, False):
        _receive(hub, plan, file, progress)
        if holds(partial, file):
            return
        progress(-_size(partial))
        partial.unlink()
        if not resumed:
            break
    raise DownloadFailed(
        f"{file.name} of {plan.repository} arrived with a wrong checksum and was thrown away. The hub says "
        f"{file.digest}. Try again; if it stays so, the file changed on its way: check a proxy or a mirror."
    )


def _receive(hub: Hub, plan: Plan, file: RemoteFile, progress: Progress) -> None:
    """Let the partial file grow to its size, over as many connections as it takes."""
    partial = _partial(plan.folder, file)
    partial.touch()
    progress(_size(partial))
    failures = 0
    while (had := _size(partial)) < file.size:
        try:
            _receive_once(hub, plan, file, progress)
            if _size(partial) < file.size:
                raise Interrupted("the connection ended early")  # noqa: TRY301 - like any other interruption
        except Interrupted as error:
            failures = failures + 1 if _size(partial) <= had else 0
            hub.pause(failures, error, f" What has arrived of {file.name} is kept: the same command continues.")


def _receive_once(hub: Hub, plan: Plan, file: RemoteFile, progress: Progress) -> None:
    partial = _partial(plan.folder, file)
    had = _size(partial)
    with hub.open(plan.repository, plan.commit, file.name, had) as response:
        begins = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        if begins is None or int(begins[1]) != had:
            progress(-had)  # a server that knows no ranges sends all of it
            had = 0
        with partial.open("r+b" if had else "wb") as out:
            out.seek(had)
            for chunk in response.iter_bytes():
                out.write(chunk)
                progress(len(chunk))
                if out.tell() > file.size:
                    break  # too long: the checksum will say so
            out.flush()
            os.fsync(out.fileno())


def holds(path: Path, file: RemoteFile) -> bool:
    """Whether a local file is, to the last bit, the one that the hub describes."""
    if not path.is_file() or _size(path) != file.size:
        return False
    with path.open("rb") as content:
        if len(file.digest) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.digest
        git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        while chunk := content.read(_CHUNK_BYTES):
            git.update(chunk)
    return git.hexdigest() == file.digest


def holds_all(folder: Path, fetched: Fetched) -> bool:
    """Whether every file that was fetched is still what the hub sent."""
    return all(
        (folder / name).is_file()
        and holds(folder / name, RemoteFile(name=name, size=_size(folder / name), digest=digest))
        for name, digest in fetched.files.items()
    )


def read_fetched(folder: Path) -> Fetched | None:
    """Where the weights in a folder are from; None when they were not fetched by us."""
    return read_record(folder / FETCHED, Fetched)


def folder_for(repository: str) -> Path:
    """Where a repository's files are fetched to when no folder is named."""
    return FOLDER if repository == REPOSITORY else FOLDER.parent / repository.rpartition("/")[2]


def locate(weights: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The local folder that `weights` means: a folder, or the hub name of a model that was fetched before.

    A hub name is looked for where we fetch to, then in the cache of the hub's own library. Never asks the network.

    Raises:
        UnusableWeights: there is neither.
    """
    folder = Path(weights)
    if folder.is_dir():
        return folder
    if folder == FOLDER:
        raise UnusableWeights(f"There is no folder {weights}; `armwise classifier fetch` gets NVIDIA's model into it.")
    if not re.fullmatch(_NAME, weights):
        raise UnusableWeights(
            f"There is no folder {weights}; `armwise classifier fetch --to {weights}` gets NVIDIA's model into it."
        )
    ours = folder_for(weights)
    fetched = read_fetched(ours)
    if fetched is not None and fetched.repository == weights:
        return ours
    home = Path(environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    cached = Path(environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{weights.replace('/', '--')}"
    with contextlib.suppress(OSError):
        snapshot = cached / "snapshots" / (cached / "refs" / "main").read_text("utf-8").strip()
        if all((snapshot / name).is_file() for name in NEEDED):
            return snapshot
    into = f"`armwise classifier fetch --to {weights}` gets NVIDIA's model into it"
    called = (
        "`armwise classifier fetch`" if weights == REPOSITORY else f"`armwise classifier fetch --repository {weights}`"
    )
    raise UnusableWeights(
        f"There is no folder {weights} ({into}), and a repository of that name is neither in {ours} nor in "
        f"{cached.parent} ({called} gets it)."
    )


def _partial(folder: Path, file: RemoteFile) -> Path:
    """Where a file grows. Its name holds the digest: another version is never continued with."""
    return folder / f".{file.name}.{file.digest[:16]}.partial"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


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
