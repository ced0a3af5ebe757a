"""How budgets are kept. Part of `service.metrics.catalogue.Metrics`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from service.metrics.instruments import Instruments

if TYPE_CHECKING:  # only for types: the parts join these
    from service.money.budgets import Standing


class BudgetMetrics(Instruments):
    """Metrics of what policies may spend, in money and in late replies."""

    def __init__(self) -> None:
        super().__init__()
        self._budget_spent = self.gauge(
            "armwise_budget_spent_usd", "Money that counts as spent; of a budget per day, today.",
            "livemostrecent", "policy",
        )  # fmt: skip
        self._budget_granted = self.gauge(
            "armwise_budget_granted_usd", "Money that was granted up to now; of a budget per day, today.",
            "livemostrecent", "policy",
        )  # fmt: skip
        self._budget_debt = self.gauge(
            "armwise_budget_debt_requests", "Budgets of one request that were spent ahead; negative: saved.",
            "livemostrecent", "policy", "budget",
        )  # fmt: skip
        self._budget_price = self.gauge(
            "armwise_budget_price", "Quality points (0 to 1) that a dollar, or a late reply, costs a model.",
            "livemostrecent", "policy", "budget",
        )  # fmt: skip
        self._budgets_told: set[tuple[str, str]] = set()

    def budgets(self, standings: Iterable["Standing"]) -> None:
        """How every budget is kept now; one that is no longer in the settings reads 0."""
        told = {(one.policy, one.budget): one for one in standings}
        for policy, budget in self._budgets_told - told.keys():
            self._budget_debt[policy, budget].set(0)
            self._budget_price[policy, budget].set(0)
            if budget == "money":
                self._budget_spent[policy].set(0)
                self._budget_granted[policy].set(0)
        for (policy, budget), one in told.items():
            self._budget_debt[policy, budget].set(one.debt_requests)
            self._budget_price[policy, budget].set(one.price)
            if budget == "money":
                self._budget_spent[policy].set(one.spent)
                self._budget_granted[policy].set(one.granted)
        self._budgets_told = set(told)
