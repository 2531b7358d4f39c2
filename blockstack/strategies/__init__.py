"""The ways around the race that the thread weighed. One strategy a file, behind one small class, registered by name."""

from blockstack.strategies.base import FileFacts, Strategy
from blockstack.strategies.no_alloc_space import NoAllocSpace
from blockstack.strategies.none import Unordered
from blockstack.strategies.serialise import Serialise
from blockstack.strategies.serialise_xfs_native import SerialiseXfsNative
from blockstack.strategies.skip_zero_xfs import SkipZeroXfs

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (Unordered(), SerialiseXfsNative(), SkipZeroXfs(), NoAllocSpace(), Serialise())
}
"""Every strategy by the name `--strategy` takes; `none` is the control."""

CONTROL = "none"
"""The strategy that protects nothing."""

__all__ = ["CONTROL", "STRATEGIES", "FileFacts", "Strategy"]
