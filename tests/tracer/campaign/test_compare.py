"""What got worse: histories that are made, with a known fall, a known slower ratio, and neither."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tracer.campaign import table
from tracer.campaign.compare import Comparison, compare, load
from tracer.commands import main
from tracer.errors import Status, UsageError

Rows = list[dict[str, Any]]


def row(run: int, verdict: str, *, seed: int = 1, strategy: str = "serialise", **more: Any) -> dict[str, Any]:
    options = {"kernel": "host", "strategy": "serialise", "fs": "xfs", "seed": seed}
    return {
        **{"campaign": "c", "run": str(run), "run_number": run, "command": "verify", "cell": "k", "exit": 0},
        **{"options": json.dumps(options, sort_keys=True), "row": f"{strategy} x kernel", "subject": strategy},
        **{"control": strategy == "none", "verdict": verdict, "reason": "because"},
        **more,
    }


def measured(run: int, factor: float, rounds: int, *, seed: int = 1, noise: int = 0) -> dict[str, Any]:
    chosen = random.Random(run * 1000 + seed + noise)
    ratios = [factor * chosen.lognormvariate(0, 0.03) for _ in range(rounds)]
    told: dict[str, Any] = {"command": "bench", "row": "random: serialise", "peer": "none", "ratios": ratios}
    return row(run, "measured", seed=seed, **told)


def compared(old: Rows, new: Rows) -> Comparison:
    return compare(("old", old), ("new", new))


def test_nothing() -> None:
    same = [row(1, "confirmed"), row(1, "corrupt", strategy="none"), measured(1, 1.2, 12)]
    found = compared(same, [row(2, "confirmed"), row(2, "corrupt", strategy="none"), measured(2, 1.2, 12)])
    assert (found.compared, found.worse, found.verdicts, found.status) == (3, 0, [], Status.OK)
    assert [one.conclusion for one in found.ratios] == ["no difference shown"]


@pytest.mark.parametrize("now", ["inconclusive", "unsafe", "corrupt"])
def test_a_verdict_that_fell(now: str) -> None:
    found = compared([row(1, "confirmed")], [row(2, now)])
    assert [(one.old, one.new, one.worse) for one in found.verdicts] == [("confirmed", now, True)]
    assert found.status is Status.HAZARD
    back = compared([row(2, now)], [row(1, "confirmed")])
    assert [one.worse for one in back.verdicts] == [False]
    assert back.status is Status.OK


def test_a_control_is_worse_when_it_is_silent_or_loses_what_it_never_did() -> None:
    def control(run: int, *verdicts: str) -> Rows:
        return [row(run, verdict, strategy="none", seed=seed) for seed, verdict in enumerate(verdicts)]

    assert compared(control(1, "unsafe", "unsafe"), control(2, "unsafe", "inconclusive")).worse == 1
    assert compared(control(1, "unsafe", "unsafe"), control(2, "unsafe", "corrupt")).worse == 1
    assert compared(control(1, "corrupt", "unsafe"), control(2, "unsafe", "corrupt")).worse == 0, "chance"
    better = compared(control(1, "corrupt", "unsafe"), control(2, "unsafe", "unsafe"))
    assert [one.worse for one in better.verdicts] == [False]


@pytest.mark.parametrize(
    ("rounds", "factor", "wanted"),
    [(12, 1.5, Status.HAZARD), (7, 1.5, Status.INCONCLUSIVE), (12, 1.0, Status.OK), (12, 0.7, Status.OK)],
)
def test_a_ratio(rounds: int, factor: float, wanted: Status) -> None:
    found = compared([measured(1, 1.2, rounds)], [measured(2, 1.2 * factor, rounds)])
    assert found.worse == (wanted is Status.HAZARD)
    assert found.ratios[0].change.ratio == pytest.approx(factor, rel=0.1)
    assert found.status is wanted
    assert bool(found.unsure) is (wanted is Status.INCONCLUSIVE)


def test_seeds_are_rounds_of_the_same() -> None:
    def runs(run: int, factor: float) -> Rows:
        return [measured(run, factor, 4, seed=seed) for seed in range(3)]

    found = compared(runs(1, 1.2), runs(2, 1.5))
    assert [(one.change.rounds, one.conclusion) for one in found.ratios] == [(12, "slower")]
    assert "seed" not in found.ratios[0].name


def test_what_did_not_change_is_seldom_called_slower() -> None:
    """At most what a 99 % interval of twelve rounds has been measured to do (tests/tracer/bench/test_statistics.py)."""
    wrong = sum(
        compared([measured(1, 1.2, 12, noise=trial * 7)], [measured(2, 1.2, 12, noise=trial * 7)]).worse
        for trial in range(200)
    )
    assert wrong <= 6


def test_what_one_side_lacks_is_named() -> None:
    both = [row(1, "confirmed"), row(1, "confirmed", seed=2)]
    failed = row(2, "error", seed=2) | {"row": "", "reason": "it did not end within 5 s"}
    found = compared(both, [row(2, "confirmed"), failed])
    assert found.only_old == ["verify fs=xfs kernel=host seed=2 strategy=serialise (error: it did not end within 5 s)"]
    assert found.status is Status.INCONCLUSIVE, "an error is not green"
    assert compared([row(1, "confirmed")], both).only_new == ["verify fs=xfs kernel=host seed=2 strategy=serialise"]
    assert compared([row(1, "confirmed")], [row(2, "confirmed", seed=3)]).status is Status.INCONCLUSIVE


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pq.write_table(table.made(rows, sorted({str(row["run"]) for row in rows}, key=int)), path)
    return path


def test_references(tmp_path: Path) -> None:
    path = written(tmp_path / "a@b.parquet", [row(10, "unsafe"), row(9, "confirmed"), row(11, "corrupt")])
    for reference, before, run in ((f"{path}", 0, "11"), (f"{path}", 1, "10"), (f"{path}@9", 0, "9")):
        name, rows = load(reference, before)
        assert (name, {one["run"] for one in rows}) == (f"{path}@{run}", {run})
    for reference, message in (
        (f"{path}@8", "no run 8"),
        (f"{tmp_path}/gone", "not the table"),
        (f"{tmp_path}", "not the directory of a campaign"),
        (f"{written(tmp_path / 'one', [row(1, 'unsafe')])}", "nothing to compare"),
    ):
        with pytest.raises(UsageError, match=message):
            load(reference, before=1)
    (tmp_path / "foreign").write_bytes(b"PAR1 or not")
    with pytest.raises(UsageError, match="not the table of a campaign"):
        load(str(tmp_path / "foreign"))
    pq.write_table(table.made([], []).replace_schema_metadata(None), tmp_path / "other")
    with pytest.raises(UsageError, match="not the table of a campaign"):
        load(str(tmp_path / "other"))


def test_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At 80 columns, what is worse first, and nothing of a foreign table reaches the terminal as it is."""
    hostile: dict[str, Any] = {"row": "x\x1b[2J", "reason": "because\nPASS"}
    old = written(tmp_path / "old", [row(1, "confirmed", **hostile), row(1, "confirmed", seed=2), measured(1, 1.2, 12)])
    new = written(tmp_path / "new", [row(2, "unsafe", **hostile), measured(2, 1.8, 12)])
    with pytest.raises(SystemExit) as ended:
        main(["campaign", "compare", str(old), str(new)])
    text = capsys.readouterr().out
    assert ended.value.code == 1
    assert "\x1b" not in text
    assert text.startswith("WORSE: verify fs=xfs")
    assert "confirmed, now unsafe: because\\nPASS" in text.replace("\n  ", " ")
    assert "slower (x 1." in text.replace("\n  ", " ")
    assert "not in NEW: verify" in text
    assert "2 got worse; 1 have no result any more" in text.replace("\n  ", " ")
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 80
