"""How work is cut into tasks, and what a task says while it runs."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tracer.analysis.parted import Shape, many, saved
from tests.tracer.analysis.test_sweep import EndedBefore, Meet
from tracer.analysis import shares, stream
from tracer.analysis.emulation import emulated, resolved
from tracer.analysis.engine import analyse_stored, examples, first_look, one_after_the_other
from tracer.analysis.rules import Outcome, Rule, named
from tracer.analysis.shares import Done, News, Task, tasks
from tracer.analysis.stream import Window, _sorted, carried, stretches
from tracer.analysis.sweep import Found, Share
from tracer.operations import Op
from tracer.stored import Group, Stored
from tracer.trace_columns import LAST_NUMBER, NAMES

COUNT = 3000


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    ops = many(COUNT, files=3)
    ops["seq_end"][[5, 2999]] = 0
    ops["t_end"][[5, 2999]] = 0
    return saved(
        tmp_path_factory.mktemp("shares") / "t", ops, Shape(tuple(at // 1000 for at in range(COUNT)), 0, 100, True)
    )


def planned(trace: Stored, rules: list[Rule], workers: int) -> list[Task]:
    return list(tasks(trace, emulated(trace), rules, workers))


def test_pairs_are_cut_by_time_and_scans_by_file(trace: Stored) -> None:
    pairs, scan = Meet(), EndedBefore()
    plan = planned(trace, [pairs, scan], 2)
    by_time, by_file = [t for t in plan if t.rules == (pairs,)], [t for t in plan if t.rules == (scan,)]
    assert plan == by_time + by_file
    assert (len(by_time), len(by_file)) == (8, 2)
    assert [task.share.bucket for task in by_file] == [0, 1]
    assert all(task.share.buckets == 2 and task.share.window == Window(0, LAST_NUMBER) for task in by_file)
    assert all(task.share.buckets == 1 for task in by_time)
    # Every operation is counted once.
    assert [task.counts for task in plan] == [True] * 8 + [False] * 2
    assert [task.counts for task in planned(trace, [scan], 3)] == [True, False, False]
    assert [task.share for task in planned(trace, [pairs], 1)] == [Share(Window())]
    (alone,) = planned(trace, [], 1)
    assert (alone.rules, alone.counts) == ((), True)


@pytest.mark.parametrize("counts", [True, False])
def test_news_add_up_to_the_result(trace: Stored, counts: bool) -> None:
    rules = (Meet((Op.FALLOCATE,)), Meet(symmetric=True))
    rules[1].id = "other"
    *news, done = shares.run(Task(trace, emulated(trace), rules, Share(Window()), counts))
    assert isinstance(done, Done)
    assert all(isinstance(one, News) and (one.operations or one.kinds) for one in news)
    assert sum(one.operations for one in news if isinstance(one, News)) == done.operations == COUNT * counts
    assert done.unfinished == 2 * counts
    told = [one for some in news if isinstance(some, News) for one in some.kinds]
    assert Counter((rule, kind) for rule, kind, _ in told) == Counter(
        (rule, kind) for rule, found in done.found.items() for kind in found.kinds
    )
    for rule, kind, finding in told:
        whole = done.found[rule].kinds[kind]
        assert finding.first >= whole.first
        assert 0 < finding.counts.exposed <= whole.counts.exposed
    assert len(examples(rules, News(0, tuple(told)))) == len(told)


def test_a_task_without_pairs_tells_how_far_it_is(trace: Stored) -> None:
    task = Task(trace, emulated(trace), (Meet((Op.TRUNCATE,)),), Share(Window(0, 10)), counts=True)
    *news, done = shares.run(task)
    assert isinstance(done, Done)
    assert done.found["meet"].counts.exposed == 0
    assert sum(one.operations for one in news if isinstance(one, News)) == done.operations > 0


def test_the_first_look_is_at_the_first_row_group(trace: Stored, tmp_path: Path) -> None:
    rules: list[Rule] = [Meet((Op.FALLOCATE,)), EndedBefore()]
    for path in (trace.path, trace.files[0]):
        met = first_look(path, rules)
        assert met is not None
        found, news = met
        assert [group.rows for group in found.groups] == [100]
        assert {rule for rule, _, _ in news.kinds} == {"meet"}
        assert news.operations == 0
    assert first_look(trace.path, [Meet((Op.TRUNCATE,))]) is None
    assert first_look(tmp_path / "missing", rules) is None
    assert first_look(tmp_path, rules) is None
    assert first_look(saved(tmp_path / "empty", many(0), Shape((0,), 0, 9, True)).path, rules) is None
    # Steps of a fallocate may be elsewhere.
    ops = many(100)
    ops["op"][3], ops["request"] = Op.MARK_FALLOCATE, 1
    assert first_look(saved(tmp_path / "marks", ops, Shape((0,), 0, 50, True)).path, rules) is None


def test_stretches_have_what_begins_before_their_frontier(trace: Stored) -> None:
    before = 0
    sizes = []
    for stretch in stretches(trace, NAMES, Window(), batch=250, held=1000):
        begins = stretch.ops["seq_begin"]
        assert (np.diff(begins.astype(np.int64)) > 0).all()
        assert before <= begins.min(initial=before)
        assert begins.max(initial=before) < stretch.frontier
        assert stretch.ops.keys() == {*NAMES, "row"}
        before = stretch.frontier
        sizes.append(len(begins))
    assert before == LAST_NUMBER
    assert sum(sizes) == COUNT
    assert all(250 <= size <= 400 for size in sizes[:-1])
    # Fewer at a time where memory for those that wait is short, and still all of them.
    tight = [len(some.ops["row"]) for some in stretches(trace, NAMES, Window(), batch=250, held=1)]
    assert sum(tight) == COUNT
    assert max(tight) <= 400


def test_a_row_group_is_read_once_if_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And part by part, once for each, if there is none: then memory is what is held."""
    trace = saved(tmp_path / "t", many(COUNT), Shape(tuple(at % 5 for at in range(COUNT)), 0, 200, True))
    reads: Counter[int] = Counter()
    read = Stored.read

    def counted(self: Stored, group: Group, *arguments: Any, **named: Any) -> Any:
        reads[group.number] += 1
        return read(self, group, *arguments, **named)

    monkeypatch.setattr(Stored, "read", counted)
    assert sum(len(some.ops["row"]) for some in stretches(trace, NAMES, Window(), batch=100, held=COUNT)) == COUNT
    assert set(reads.values()) == {1}
    assert len(reads) == len(trace.groups)
    reads.clear()
    monkeypatch.setattr(stream, "_LEAST", 16)
    assert sum(len(some.ops["row"]) for some in stretches(trace, NAMES, Window(), batch=100, held=1)) == COUNT
    assert max(reads.values()) > 1


def test_what_is_in_order_is_not_sorted() -> None:
    ops = {"seq_begin": np.array([1, 2, 2, 5], np.uint64), "row": np.arange(4)}
    assert _sorted(ops) is ops
    assert _sorted({name: column[::-1] for name, column in ops.items()})["row"].tolist() == [0, 2, 1, 3]


def test_what_was_in_flight_at_a_number(trace: Stored) -> None:
    whole = trace.rows([(group.number << 32) + at for group in trace.groups for at in range(group.rows)])
    for number in (1, 2, 500, 3001, 5999, 6000, *(group.last_end for group in trace.groups[:9])):
        ends = np.where(whole["seq_end"] == 0, LAST_NUMBER, whole["seq_end"])
        wanted = whole["seq_begin"][(whole["seq_begin"] < number) & (ends >= number)]
        found = list(carried(trace, NAMES, number))
        assert sorted(begin for ops in found for begin in ops["seq_begin"].tolist()) == sorted(wanted.tolist())
        for ops in found:
            assert trace.rows(ops["row"].tolist())["seq_begin"].tolist() == ops["seq_begin"].tolist()


def test_pairs_are_folded_many_at_a_time_but_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "_FOLDED", 5)
    ops = resolved(named("overlapping-writes").example.operations())
    folded = shares._Folded("overlapping-writes")
    two = Found(
        named("overlapping-writes"), ops.take(np.array([0, 0])), ops.take(np.array([1, 1])), np.ones(2, np.uint8)
    )
    news, waiting = [], []
    for _ in range(7):
        news.append(len(folded.take(two)))
        waiting.append(folded._count)
    assert news == [1, 0, 0, 0, 0, 0, 0]
    assert waiting == [0, 2, 4, 0, 2, 4, 0]


def test_the_first_look_tells_no_loss_that_the_rest_may_explain(tmp_path: Path) -> None:
    """By the size that is left a write is lost, unless a truncate that is in a later row group has cut it off."""
    rule = named("post-eof-fallocate")
    whole = saved(tmp_path / "t", rule.example.operations(), Shape((0, 0), 0, 100, True))
    met = first_look(whole.path, [rule])
    assert met is not None
    (hazard,) = examples([rule], met[1])
    assert (hazard.outcome, hazard.counts.lost) == (Outcome.EXPOSED, 0)
    (analysis,) = analyse_stored([whole], [rule], 1, one_after_the_other)
    assert analysis.counts[rule.id].lost == 1
