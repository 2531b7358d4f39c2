"""Metrics for Prometheus, as a file for the textfile collector of its node exporter."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.output import atomic_output
from tracer.watch.result import State


class _State(Collector):
    """The counts as families of metrics: of bounded number, whatever files and processes are called."""

    def __init__(self, state: State, *, running: bool) -> None:
        self._state = state
        self._running = running

    def collect(self) -> Iterator[Metric]:
        state, counts = self._state, self._state.counts
        yield GaugeMetricFamily("eofrace_watch_running", "1: this file is being kept up to date", self._running)
        yield GaugeMetricFamily("eofrace_watch_started_seconds", "Begin of watching, seconds since 1970", state.started)
        yield GaugeMetricFamily("eofrace_watch_processes", "Processes that are followed", state.processes)
        operations = CounterMetricFamily("eofrace_watch_operations", "Operations that ended, by kind", labels=["op"])
        for op, count in state.operations.items():
            operations.add_metric([op.label], count)
        yield operations
        yield CounterMetricFamily(
            "eofrace_watch_post_eof_fallocates", "Fallocates that extend their file", state.post_eof_fallocates
        )
        pairs = CounterMetricFamily(
            "eofrace_watch_pairs", "Dangerous pairs of operations, by what became of them", labels=["rule", "outcome"]
        )
        pairs.add_metric([RULE.id, "exposed"], counts.exposed - counts.kernel_serialised - counts.lost)
        pairs.add_metric([RULE.id, "kernel-serialised"], counts.kernel_serialised)
        pairs.add_metric([RULE.id, "lost"], counts.lost)
        yield pairs
        yield GaugeMetricFamily(
            "eofrace_watch_last_hazard_seconds", "The last hazard, seconds since 1970; 0: none", state.last_hazard
        )
        unseen = CounterMetricFamily(
            "eofrace_watch_unseen", "Operations that were not seen, or not wholly judged", labels=["reason"]
        )
        for reason, count in state.lost.items():
            unseen.add_metric([reason], count)
        yield unseen


def write(path: Path, state: State, *, running: bool) -> None:
    """Replace the file `path`, whole or not at all, without a flush. Raises as `tracer.output.atomic_output`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_State(state, running=running))
    with atomic_output(path, durable=False) as stream:
        stream.write(generate_latest(registry))
