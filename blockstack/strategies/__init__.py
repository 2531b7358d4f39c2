"""The ways around the race that the thread weighed. One strategy a file, behind one small class, registered by name."""

from blockstack.strategies.auto import Auto
from blockstack.strategies.base import FileFacts, Strategy
from blockstack.strategies.no_alloc_space import NoAllocSpace
from blockstack.strategies.none import Unordered
from blockstack.strategies.serialise import Serialise
from blockstack.strategies.serialise_xfs_native import SerialiseXfsNative
from blockstack.strategies.skip_zero_xfs import SkipZeroXfs

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (Unordered(), SerialiseXfsNative(), SkipZeroXfs(), NoAllocSpace(), Serialise(), Auto())
}
"""Every strategy by the name `--strategy` takes; `none` is the control."""

CONTROL = "none"
"""The strategy that protects nothing."""

AUTO = "auto"
"""The strategy that goes by what somebody has found out about the kernel; without that it serialises."""

__all__ = ["AUTO", "CONTROL", "STRATEGIES", "Auto", "FileFacts", "Strategy"]
