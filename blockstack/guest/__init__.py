"""The guest: a seeded workload whose every byte is stamped, and the oracle that knows what must read back."""

from blockstack.guest.oracle import Damage, Oracle
from blockstack.guest.workload import DEPTH, GuestWrite, Plan, make_plan, run

__all__ = ["DEPTH", "Damage", "GuestWrite", "Oracle", "Plan", "make_plan", "run"]
