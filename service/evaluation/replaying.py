"""What another policy would have drawn on the decisions of the log, each time knowing no more than was known then."""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import takewhile

import msgspec

from bandit.channels import Calibration
from bandit.fitted import late_limit
from bandit.history import Memory, faded
from bandit.linear import LinearThompson, counted
from bandit.policies import Fixed, Policy, Random, Rules, StaticTier
from bandit.posteriors import Beliefs
from bandit.selection import choose
from bandit.vocabulary import EXPLICIT_CHANNELS, TASK_TYPES, Arm, PromptProfile, TaskType, Terms
from service.decide import Decision
from service.evaluation.decision_log import Entry
from service.evaluation.past import Past
from service.learning.control_actions import fitted_now
from service.learning.controls import Control, Saved, fold
from service.learning.fitting import fitted, regressed
from service.learning.knowledge import Knowledge

REFIT_S = 3600.0  # a learning policy is fitted after so much time of the log,
REFIT_LABELS = 200  # or after so many labels
OWN_CALLS = 10.0  # weight of all of a model's replies in what is expected of those on one task type

_HOUR_S = 3600.0
_NEVER_LEARN = (Fixed, Random, StaticTier, Rules)


def learns(policy: Policy) -> bool:
    """Whether what a policy draws depends on rewards."""
    return not isinstance(policy, _NEVER_LEARN)


class Means:
    """What replies were like so far, by one measure; as in `learning.usage`, few on a task type lean on the model's."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, TaskType], tuple[int, float]] = {}  # model, task type: calls, sum of the measure

    def add(self, arm: str, task: TaskType, measured: float) -> None:
        """Take in a reply."""
        n, total = self._sums.get((arm, task), (0, 0.0))
        self._sums[arm, task] = n + 1, total + measured

    def means(self) -> dict[tuple[str, TaskType], float]:
        """Mean of the measure by model and task type."""
        whole: dict[str, tuple[int, float]] = {}
        for (arm, _), (n, total) in self._sums.items():
            calls, all_of_it = whole.get(arm, (0, 0.0))
            whole[arm] = calls + n, all_of_it + total
        own = {arm: all_of_it / calls for arm, (calls, all_of_it) in whole.items()}
        return {key: (total + OWN_CALLS * own[key[0]]) / (n + OWN_CALLS) for key, (n, total) in self._sums.items()}


class Hindsight:
    """Takes policies through a log: at each decision they know what had arrived before their last fit, never more."""

    def __init__(self, policies: Sequence[Policy], arms: Mapping[str, Arm], memory: Memory, past: Past) -> None:
        self._policies = policies
        self._arms = arms
        self._memory = memory
        self._past = past
        self._knowledge = Knowledge(clock=lambda: 0.0)
        self._knowledge.load(past.cells)
        self._calibration = past.calibration
        self._lengths = Means()
        self._late = {limit: Means() for limit in {late_limit(policy) for policy in policies} - {0.0}}
        self._fitted_at = float("-inf")
        self._rows: list[Control] = []  # controls that are in force
        self._taken = self._seen = self._paired = 0  # arrivals that are known, and that have come; pairs that are known
        self._labels = 0  # that have come and are not known
        self._of = lru_cache(maxsize=4096)(self._eligible)

    def draw(self, decision: Decision) -> dict[str, dict[str, float]]:
        """By policy, its probabilities by model for this decision; empty when none of its models is configured.

        Decisions must come in the order in which they were made.
        """
        arms = self._of(decision.choice.arms)
        if not arms:
            return {}
        self._advance(decision.created_at)
        found = {}
        for policy in self._policies:
            beliefs, terms = self._beliefs(policy, decision.profile), self._terms(policy, decision)
            choice = choose(policy, decision.profile, arms, beliefs, 0, terms=terms, max_explore=decision.max_explore)
            found[policy.name] = dict(zip(choice.arms, choice.probabilities, strict=True))
        return found

    def hear(self, entry: Entry) -> None:
        """What came of the decision that was drawn last, as far as policies weigh it beside rewards."""
        if entry.tokens is not None and entry.tokens[1] > 0:
            self._lengths.add(entry.answered_by, entry.decision.profile.task_type, entry.tokens[1])
        if entry.waited_s:
            for limit, late in self._late.items():
                late.add(entry.answered_by, entry.decision.profile.task_type, float(entry.waited_s > limit))

    def _eligible(self, names: tuple[str, ...]) -> tuple[Arm, ...]:
        return tuple(self._arms[name] for name in names if name in self._arms)

    def _terms(self, policy: Policy, decision: Decision) -> Terms:
        """The prices of money and of late replies that were in force, for a policy that has a limit to them."""
        terms = decision.choice.terms
        if getattr(policy, "objective", "") != "budget":
            terms = Terms(late_price=terms.late_price)
        return terms if late_limit(policy) else msgspec.structs.replace(terms, late_price=0.0)

    def _beliefs(self, policy: Policy, profile: PromptProfile) -> Beliefs:
        if not learns(policy):
            return Beliefs()
        return self._knowledge.believed(policy, "", profile, self._fitted_at)

    def _advance(self, at: float) -> None:
        """Do as the owner switched before `at`, each at its time, and learn."""
        begun, first = self._fitted_at > float("-inf"), len(self._rows)
        for row in takewhile(lambda row: row.at < at, self._past.controls[first:]):
            if begun and row.action == "freeze":
                self._learn(row.at, anyway=True)
                self._rows.append(self._frozen(row))
            else:
                self._rows.append(row)
            if begun:
                self._knowledge.control(fold(self._rows))
        if len(self._rows) > first:
            self._knowledge.control(fold(self._rows))
        self._learn(at, anyway=len(self._rows) > first)

    def _frozen(self, row: Control) -> Control:
        """A freeze that holds also what candidates believe now of whose names it saved nothing."""
        try:
            saved = msgspec.json.decode(row.content, type=Saved)
        except msgspec.MsgspecError:
            return row  # `fold` passes it over, and says so
        names = {policy.name for policy in self._policies} - saved.estimates.keys() - saved.linear.keys()
        tasks = TASK_TYPES if row.task_type is None else (row.task_type,)
        own = fitted_now(sorted(names), tasks, list(self._arms) if row.arm is None else [row.arm], self._knowledge)
        both = msgspec.structs.replace(
            saved,
            estimates={**saved.estimates, **own.estimates},
            regressions={**saved.regressions, **own.regressions},
            linear={**saved.linear, **own.linear},
        )
        return msgspec.structs.replace(row, content=msgspec.json.encode(both).decode())

    def _learn(self, at: float, *, anyway: bool = False) -> None:
        """Fit again at `at`, when an hour or 200 labels have passed."""
        arrivals = self._past.arrivals
        while self._seen < len(arrivals) and arrivals[self._seen].at < at:
            self._labels += arrivals[self._seen].cell.channel in EXPLICIT_CHANNELS
            self._seen += 1
        if not anyway and at - self._fitted_at < REFIT_S and self._labels < REFIT_LABELS:
            return
        for _, cell, counts in arrivals[self._taken : self._seen]:
            self._knowledge.fold({cell: counts})
        self._taken, self._labels, self._fitted_at = self._seen, 0, at
        pairs = self._past.pairs
        while self._paired < len(pairs) and pairs[self._paired][0] < at:
            _, task, pair = pairs[self._paired]
            self._calibration = self._calibration.plus(Calibration({task: pair}))
            self._paired += 1
        self._fit([policy for policy in self._policies if policy.fits], at)

    def _fit(self, policies: Sequence[Policy], at: float) -> None:
        if not policies:
            return
        found = [restart for since, restart in self._past.restarts if since < at]
        restarts = self._knowledge.controls.restarts(found)
        table = self._knowledge.ledger.table("")
        names, arms, hours = list(self._arms), tuple(self._arms.values()), at / _HOUR_S
        history = faded(table, names, hours, self._memory, restarts, self._calibration)
        late = {limit: shares.means() for limit, shares in self._late.items()}
        for policy in policies:
            own = late.get(late_limit(policy), {})
            history = history._replace(output_tokens=self._lengths.means(), late=own)
            if isinstance(policy, LinearThompson):
                labelled = self._past.prompts.before(at, self._memory.label_half_life_days)
                weigh = partial(counted, labelled, names, hours, self._memory, restarts)
                contents = regressed(policy, arms, labelled, weigh, history)
            else:
                contents = fitted(policy, arms, history)
            self._knowledge.take_fit("", policy.name, contents)
