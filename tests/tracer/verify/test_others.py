"""What other rules find in a cell's trace is a note, and is silent on the hazard that is judged."""

import pytest

from tracer.analysis.rules import Rule, own_rules
from tracer.verify.others import by_other_rules


@pytest.mark.parametrize("rule", own_rules(), ids=lambda rule: rule.id)
def test_a_note_names_cell_rule_and_numbers(rule: Rule) -> None:
    notes = by_other_rules(rule.example.operations(), "serialise x kernel", "kernel")
    if rule.id == "post-eof-fallocate":
        assert notes == []
        return
    [note] = notes
    assert note.startswith(f"serialise x kernel: {rule.id}: 1 pairs (0 kernel-serialised, ")
    assert rule.title in note
    assert by_other_rules(rule.almost.operations(), "serialise x kernel", "kernel") == []
    assert by_other_rules(rule.example.operations(), "serialise x kernel", "driver") == []
