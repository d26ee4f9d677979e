"""What people and scripts are shown: a plan, a budget, its history and a finished release."""

from cadp.show.budget import BudgetView, budget_view, print_budget
from cadp.show.end import print_summary
from cadp.show.history import history_json, history_view, print_history
from cadp.show.plan import PlanView, plan_view

__all__ = [
    "BudgetView",
    "PlanView",
    "budget_view",
    "history_json",
    "history_view",
    "plan_view",
    "print_budget",
    "print_history",
    "print_summary",
]
