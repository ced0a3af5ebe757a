"""The terms of a model's files: shown before they are fetched, accepted once, recorded beside them."""

import re
import time
from pathlib import Path

import msgspec

from service.classifiers.nvidia.fetch import REPOSITORY, Plan
from service.classifiers.nvidia.hub import Hub
from service.classifiers.nvidia.records import read_record, write_record

ACCEPTED = "licence-accepted.json"  # beside the weights


class Licence(msgspec.Struct, frozen=True, kw_only=True):
    """Under which terms a repository's files may be used."""

    repository: str
    name: str
    link: str


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in `licence-accepted.json`."""

    licence: Licence
    accepted_at: str
    how: str  # "terminal" or "--accept-licence"


# As its model card says: https://huggingface.co/nvidia/prompt-task-and-complexity-classifier#license
NVIDIA = Licence(
    repository=REPOSITORY,
    name="NVIDIA Open Model License Agreement (June 2024)",
    link="https://developer.download.nvidia.com/licenses/nvidia-open-model-license-agreement-june-2024.pdf",
)


def licence_of(hub: Hub, plan: Plan) -> Licence:
    """The terms of NVIDIA's repository, as known; of any other, as the head of its model card names them."""
    if plan.repository == REPOSITORY:
        return NVIDIA
    has_card = any(file.name == "README.md" for file in plan.files)
    card = hub.text(plan.repository, plan.commit, "README.md") if has_card else ""
    head = card.partition("---\n")[2].partition("\n---")[0]
    named = dict(re.findall(r"^(license\w*):\s*(.+?)\s*$", head, re.MULTILINE))
    page = f"{hub.endpoint}/{plan.repository}"
    return Licence(
        repository=plan.repository,
        name=named.get("license_name") or named.get("license") or "no licence is named",
        link=named.get("license_link", page),
    )


def terms(licence: Licence) -> str:
    """What is shown before the question."""
    told = [f"{licence.repository} is published under: {licence.name}", f"  {licence.link}"]
    if licence == NVIDIA:
        told += [
            "Read it there. Among other things it says that the model may be used commercially, that derivatives may",
            "be made and passed on, and that whoever passes the model or a derivative on adds a copy of the agreement",
            'and the notice "Licensed by NVIDIA Corporation under the NVIDIA Open Model License".',
            "The network it is built on, microsoft/deberta-v3-base, is under the MIT licence.",
        ]
    return "\n".join(told)


def accepted(folder: Path, licence: Licence) -> bool:
    """Whether these very terms were accepted for this folder before."""
    before = read_record(folder / ACCEPTED, Acceptance)
    return before is not None and before.licence == licence


def accept(folder: Path, licence: Licence, how: str) -> None:
    """Record that the terms were accepted."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_record(folder / ACCEPTED, Acceptance(licence=licence, accepted_at=now, how=how))
