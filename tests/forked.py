"""`armwise` as a process of its own that has nothing left to import: forked from one that did so for all of them.

It is killed, and told to end, like any other; but it starts in a fraction of the time, which is mostly imports.
"""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    ["service.app", "service.cli.main", "service.serving", "aiosqlite", "asyncpg", "uvicorn"]
)


def armwise(folder: Path, *words: str) -> BaseProcess:
    """Start `armwise` with these words in `folder`; one worker at most: several import anew."""
    process = _FORKED.Process(target=_run, args=(folder, words), daemon=True)
    process.start()
    return process


def _run(folder: Path, words: tuple[str, ...]) -> None:
    from service.cli.main import main

    os.chdir(folder)
    main(words, prog_name="armwise")
