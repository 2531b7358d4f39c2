"""What the rules that judge no strategy find in a cell's trace: notes, never a verdict.

A verdict on a strategy needs a control that shows that the hazard could have been seen, and the control `none` shows
post-eof-fallocate and nothing else. Whatever else is found is the driver's doing under every strategy; but it was seen.
"""

from tracer.analysis.hazards import fold
from tracer.analysis.rules import own_rules
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.operations import Operations


def by_other_rules(ops: Operations, cell: str, evidence: str) -> list[str]:
    """A note for each other rule that finds something in a trace, ops (n,), of a cell of that name.

    None on the driver's evidence: its intervals are wider than the kernel's, and pairs may be in them alone.
    """
    if evidence != "kernel":
        return []
    notes = []
    for rule in own_rules():
        if rule is RULE:
            continue
        _, counts = fold(ops, rule, rule.chunks(ops))
        if counts.exposed:
            notes.append(
                f"{cell}: {rule.id}: {counts.exposed} pairs ({counts.kernel_serialised} kernel-serialised,"
                f" {counts.lost} lost): {rule.title}: no verdict on a strategy; eofrace analyze tells more of the trace"
            )
    return notes
