"""A result of the bench that is read again: whether its ratios are those of its own seconds."""

import math
from collections.abc import Mapping
from typing import Any

from tracer.bench.statistics import estimate


def seconds_of(measured: Mapping[str, Any]) -> dict[str, list[float]]:
    """Side -> what it took in each round, in seconds."""
    return {str(side["side"]): [float(one) for one in side["seconds"]] for side in measured["sides"]}


def belied(document: Mapping[str, Any]) -> str:
    """Where an eofrace.bench/1, of the right types, does not bear itself out, in a phrase; empty: nowhere."""
    for measured in document["workloads"]:
        name, seconds = measured["workload"]["name"], seconds_of(measured)
        if len(seconds) != len(measured["sides"]) or document["baseline"] not in seconds:
            return f"{name}: its sides are {', '.join(side['side'] for side in measured['sides'])}"
        if any(len(taken) != measured["rounds"] or min(taken, default=0) <= 0 for taken in seconds.values()):
            return f"{name}: it is said to have {measured['rounds']} rounds, and its times are not of as many"
        for side in measured["sides"]:
            for other, said in side["compared"].items():
                if other not in seconds:
                    return f"{name}: {side['side']} is compared with {other}, which has no times"
                ratio = estimate(seconds[side["side"]], seconds[other]).ratio
                if not math.isclose(said["ratio"], ratio, rel_tol=1e-9):
                    return f"{name}: {side['side']} is said to take {said['ratio']:g} of {other}, and took {ratio:g}"
    return ""
