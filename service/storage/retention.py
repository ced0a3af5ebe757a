"""What is past its retention, and how it is dropped: by the service each hour, and by `armwise db prune`."""

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from service.money.accounts import prune_accounts
from service.probes.canaries import prune_answers
from service.settings import Retention
from service.storage import store
from service.traffic import sums

_DAY_S = 86_400.0


def steps(kept: Retention, now: float) -> dict[str, Callable[[Connection], int]]:
    """What to do, by what it drops, each until it returns 0: a little at a time where much is kept, as writes wait."""
    decided, prompted = now - kept.decisions_days * _DAY_S, now - kept.prompts_days * _DAY_S
    return {
        "decisions and beliefs": partial(store.prune, before=decided),
        "prompts": partial(store.prune_prompts, before=prompted),
        "hours of traffic": partial(sums.prune, before=decided),
        "canaries' answers": partial(prune_answers, before=decided),
        "days of accounts": partial(prune_accounts, before=decided),
    }
