"""In which order and in which pieces the work is done: tile sizes, launch parameters, and backward schedules.

`plan_backward` makes a schedule (`Plan`), `simulate` carries it out in model time, `check_plan` refuses what is wrong.
"""

from .bound import lower_bound
from .check import check_plan
from .deadlock import PlanDeadlock
from .masks import group_heads, stack_groups
from .plan import Plan
from .planner import plan_backward, plan_work
from .serial import parse_plan, print_plan
from .simulate import Trace, simulate
from .work import Work

__all__ = [
    "Plan",
    "PlanDeadlock",
    "Trace",
    "Work",
    "check_plan",
    "group_heads",
    "lower_bound",
    "parse_plan",
    "plan_backward",
    "plan_work",
    "print_plan",
    "simulate",
    "stack_groups",
]
