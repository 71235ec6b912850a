"""What a request may spend on its language model: US dollars, calls, tokens.

Rule of this file: it is asked before every call, so no call begins once the budget is spent. What calls cost is known
when they end: the last ones may go over it, one for each thread at most. What the store answers costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import LanguageModelError
from ...vocabulary import named

if TYPE_CHECKING:
    from .run import Meter
    from .schema import Budget


class BudgetExhausted(LanguageModelError):
    """The budget of the request is spent."""

    recovery_strategy = "fatal"


def exhausted(budget: Budget, spent: Meter) -> BudgetExhausted | None:
    """The error that says which limit is reached; None while there is something left."""
    if budget.calls is not None and spent.calls >= budget.calls:
        return _error(f"{budget.calls} calls", budget, spent)
    if budget.tokens is not None and spent.tokens >= budget.tokens:
        return _error(f"{budget.tokens} tokens", budget, spent)
    if budget.usd is None:
        return None
    if spent.cost is None:
        return BudgetExhausted(
            "payload.budget.usd: nobody knows what a call of this language model costs, so a budget in dollars cannot "
            "be kept; give its price (lm: %{price: %{prompt_per_million: ..., completion_per_million: ...}}), or a "
            "budget of calls or tokens",
            context=_context(budget, spent),
        )
    return _error(f"{budget.usd:g} USD", budget, spent) if spent.cost >= budget.usd else None


def _error(what: str, budget: Budget, spent: Meter) -> BudgetExhausted:
    return BudgetExhausted(f"the budget of {what} is spent", context=_context(budget, spent))


def _context(budget: Budget, spent: Meter) -> dict[Any, Any]:
    limits = {name: value for name in ("usd", "calls", "tokens") if (value := getattr(budget, name)) is not None}
    return named({"code": "budget_exhausted", "budget": named(limits), "usage": named(spent.summary())})
