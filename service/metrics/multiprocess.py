"""Where several worker processes keep their metrics, so that any one of them can tell the sums.

prometheus_client decides when it is imported whether it counts in memory or in files, so this module does not import
it: call `prepare_multiprocess` in the parent before anything else does.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def prepare_multiprocess(folder: Path | None = None) -> Path:
    """Make the folder for the counts of all workers and empty it; call once, in the parent, before workers start.

    Without `folder`, the one that PROMETHEUS_MULTIPROC_DIR names, else a temporary one that is removed at the end.
    """
    if folder is None:
        named = os.environ.get(VARIABLE)
        folder = Path(named or tempfile.mkdtemp(prefix="armwise-metrics-"))
        if not named:
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob("*.db"):
        left_over.unlink()
    os.environ[VARIABLE] = str(folder)
    return folder


def mark_dead(pid: int) -> None:
    """Forget what only a living worker can say (its queue, its snapshot). What it counted stays in the sums."""
    for file in Path(os.environ[VARIABLE]).glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)


def forget_the_dead() -> None:
    """Mark every worker that is gone, however it ended."""
    for file in Path(os.environ[VARIABLE]).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not _alive(pid):
            mark_dead(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
