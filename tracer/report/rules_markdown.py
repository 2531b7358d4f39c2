"""The part of docs/rules.md that is made of the rules themselves.

python -m tracer.report.rules_markdown docs/rules.md     writes it anew, below the line that says so
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from tracer.analysis.examples import ExampleTrace
from tracer.analysis.rules import Outcome, Rule, own_rules
from tracer.operations import FALLOCATES, NONE_SIZE, Op, Operations
from tracer.report.units import size

MARK = "<!-- Made by python -m tracer.report.rules_markdown docs/rules.md from here on. -->\n"


def page(before: str, rules: Iterable[Rule]) -> str:
    """The whole page, of what it was before. Raises ValueError if that has no `MARK`, or several."""
    head, made = before.split(MARK)
    del made
    rules = list(rules)
    table = [f"| [{rule.id}](#{rule.id}) | {rule.severity} | {rule.title} |" for rule in rules]
    return "\n".join([head + MARK, "| rule | severity | |", "|---|---|---|", *table, "", *map(section, rules)])


def section(rule: Rule) -> str:
    """What one rule says of itself."""
    never = "Never claimed: a trace cannot show it."
    parts = [
        f"## {rule.id}",
        f"*{rule.title[0].upper()}{rule.title[1:]}.* Severity: {rule.severity}.",
        rule.explanation,
        f"**Why it is no normal use.** {rule.argument}",
        f"**Lost:** {rule.lost or never}",
        f"**Kernel-serialised:** {rule.serialised or never}",
        f"**In `watch`:** {rule.watched or 'not decided in the kernel.'}",
        "**It is real:**\n\n" + "\n".join(f"- {commit}" for commit in rule.commits),
        _example("The least that it finds", rule.example, rule),
        _example("Almost", rule.almost, rule),
    ]
    return "\n\n".join(parts) + "\n"


def _example(heading: str, example: ExampleTrace, rule: Rule) -> str:
    ops = example.operations()
    rows = [
        "| begin | end | operation | bytes | i_size at begin, end | took effect |",
        "|---|---|---|---|---|---|",
        *(_row(op) for op in ops),
    ]
    outcomes = [Outcome(outcome).label for outcome in rule.pairs(ops).outcome.tolist()]
    found = f"`{outcomes[0]}`" if outcomes else "nothing found"
    return f"**{heading}** ({found}): {example.why}.\n\n" + "\n".join(rows)


def _row(op: Operations) -> str:
    kind = Op(int(op["op"]))
    what = kind.label + (f", mode {int(op['flags']):#x}" if kind in FALLOCATES and op["flags"] else "")
    low, high = int(op["offset"]), int(op["offset"] + op["length"])
    where = f"to {size(low)}" if kind == Op.TRUNCATE else f"{size(low)} to {size(high)}"
    sizes = ["-" if op[name] == NONE_SIZE else size(int(op[name])) for name in ("size_begin", "size_end")]
    applied = f"{op['t_applied'] / 1000:g}" if op["t_applied"] else "-"
    return f"| {op['seq_begin']} | {op['seq_end']} | {what} | {where} | {', '.join(sizes)} | {applied} |"


def main(path: Path) -> None:
    """Write the page anew."""
    path.write_text(page(path.read_text(), own_rules()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
