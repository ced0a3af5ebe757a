"""All heuristics in one tuple: run them over an exchange, turn what they found into a reward."""

from bandit.vocabulary import Reward
from service.quality import Exchange, Finding, Heuristic
from service.quality.failures import (
    find_empty,
    find_invalid_json,
    find_invalid_tool_call,
    find_truncated,
    find_upstream_failure,
)
from service.quality.snippets import find_broken_code
from service.quality.wording import find_refusal, find_repetition, find_uncertainty, find_wrong_language
from service.settings import Quality

HEURISTICS: tuple[Heuristic, ...] = (
    Heuristic(name="empty", find=find_empty, hard=True, weight=1.0),
    Heuristic(name="truncated", find=find_truncated, hard=True, weight=1.0),
    Heuristic(name="upstream_failure", find=find_upstream_failure, hard=True, weight=1.0),
    Heuristic(name="invalid_json", find=find_invalid_json, hard=True, weight=1.0),
    Heuristic(name="invalid_tool_call", find=find_invalid_tool_call, hard=True, weight=1.0),
    Heuristic(name="refusal", find=find_refusal, weight=0.4),
    Heuristic(name="uncertainty", find=find_uncertainty, weight=0.2),
    Heuristic(name="repetition", find=find_repetition, weight=0.4),
    Heuristic(name="wrong_language", find=find_wrong_language, weight=0.4),
    Heuristic(name="broken_code", find=find_broken_code, weight=0.3),
)

_MAX_SOFT_WEIGHT = 0.5  # of one label: however many soft findings, they stay weaker than a person's word


def examine(exchange: Exchange, settings: Quality) -> list[Finding]:
    """Everything the switched-on heuristics have against a reply.

    Never raises, and takes bounded time: at most 20,000 characters at each end of the texts are read. Below 0.1 ms for
    texts of usual length; from 8,000 characters of prompt and reply on, call it in a thread.
    """
    if not settings.enabled:
        return []
    findings = []
    for heuristic in HEURISTICS:
        setting = settings.heuristics.get(heuristic.name, heuristic)
        if setting.enabled and (detail := heuristic.find(exchange)) is not None:
            weight = heuristic.weight if setting.weight is None else setting.weight
            findings.append(Finding(heuristic=heuristic.name, detail=detail, hard=heuristic.hard, weight=weight))
    return findings


def reward_of(findings: list[Finding], settings: Quality) -> Reward:
    """What the findings on one reply are worth as evidence of its quality.

    A hard finding is a label of 0. Soft ones are a part of a label of 0: their weights together, at most half a label.
    No finding is a small part of a label of 1 (`clean_weight`), because the evidence is lopsided: a heuristic fires on
    far more bad replies than good ones, so the likelihood ratio of a finding is large, while most bad replies fire
    none, so that of a clean reply is close to 1.

    Only for replies that were examined: a request that the client left or that was refused says nothing of the model,
    though no heuristic fires. The weight is 0, and there is nothing to learn, where the settings say so.
    """
    if any(finding.hard for finding in findings):
        return Reward(value=0.0, weight=1.0, channel="failure")
    if findings:
        weight = min(_MAX_SOFT_WEIGHT, sum(finding.weight for finding in findings))
        return Reward(value=0.0, weight=weight, channel="heuristic")
    return Reward(value=1.0, weight=settings.clean_weight, channel="heuristic")
