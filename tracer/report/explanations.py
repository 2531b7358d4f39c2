"""What the words mean that commands print: verdicts, outcomes, exit statuses, hazard rules."""

from collections.abc import Iterable
from dataclasses import dataclass

from tracer.analysis.rules import Outcome, Rule, prose


@dataclass(frozen=True, slots=True)
class Topic:
    """One meaning of one word. A word may have several: `inconclusive` is a verdict of two commands and a status."""

    name: str
    kind: str
    title: str
    paragraphs: tuple[str, ...]


def _topic(name: str, kind: str, title: str, *paragraphs: str) -> Topic:
    return Topic(name, kind, title, tuple(prose(paragraph) for paragraph in paragraphs))


_CELL = "verdict of verify, explore, analyze, trace"
_PROBE = "verdict of probe"
_PAIR = "outcome of a pair of operations"
_STATUS = "exit status"

VERDICTS = (
    _topic(
        "confirmed",
        _CELL,
        "nothing was exposed, and enough was tried",
        """Enough conflicts were exercised, none of them was exposed, nothing was lost, and no event was dropped. A
        conflict is a pair that the workload asked for at the same time and that the strategy had to keep apart;
        where a strategy issues no zero-writes at all, one that the control with the same seed does show.""",
        """It is a claim about what was run: this kernel, this file system, these operations. `explore` says it of
        every schedule of a small workload. For a trace of a program it means that no rule found a pair, and
        that nothing went unseen.""",
    ),
    _topic(
        "unsafe",
        _CELL,
        "what must not meet was in the kernel together",
        """Operations that must not meet were in the kernel at the same time, and nothing was lost: whoever wrote
        them relies on the kernel to order them. Another kernel, or the same one on another day, may not.""",
        """Look at the hazard in the output, `eofrace explain` its rule, and run the same on the kernel you fear
        (`eofrace vm`).""",
    ),
    _topic(
        "corrupt",
        _CELL,
        "acknowledged data was lost",
        """Acknowledged data was lost: the size went back below the end of a write, a later operation zeroed it, or
        the guest's data reads back wrong.""",
        "For the control `none` and for `legacy-xfs` that is what is expected: it proves that a loss would be seen.",
    ),
    _topic(
        "inconclusive",
        _CELL,
        "not enough evidence for any other verdict",
        """The evidence is not enough for any other verdict: events were dropped, a hook could not be attached,
        there were too few conflicts, a control showed nothing, or the run did not end. It is never success.""",
        """The reason stands beside it. A larger `--ring-size`, more `--writes`, or what `eofrace doctor` asks for may
        help.""",
    ),
    _topic(
        "safe",
        _PROBE,
        "fallocate waits for the write in flight, or sets no size",
        """With a write held in flight at the disk, fallocate waited for it, or sets no size at all; size and
        content were right afterwards. It is a claim about this mode of fallocate, on this file system and
        kernel.""",
    ),
    _topic(
        "racy",
        _PROBE,
        "fallocate cuts off the write in flight",
        """With a write held in flight at the disk, fallocate set a size that it had sampled before: the
        acknowledged write was cut off. Choose a strategy that keeps the two apart (`eofrace verify`), or
        another kernel.""",
    ),
    _topic(
        "unsupported",
        _PROBE,
        "the file system has no such fallocate, or is not here",
        "The file system does not have this mode of fallocate, or cannot be mounted here: nothing follows.",
    ),
    _topic(
        "inconclusive",
        _PROBE,
        "this order went well, another one is not excluded",
        """The write could not be held, a call failed, or fallocate waited for the disk and not for the write: this
        order went well, and another one is not excluded. Without a held disk (`--dir`) it is the best there can
        be.""",
    ),
)

OUTCOMES = (
    _topic(
        Outcome.EXPOSED.label,
        _PAIR,
        "both were in the kernel at the same time",
        """Both were in the kernel at the same time. The program relies on the kernel to order them. Every pair
        that a rule finds counts as exposed; the other two outcomes are parts of that number.""",
    ),
    _topic(
        Outcome.KERNEL_SERIALISED.label,
        _PAIR,
        "exposed, and seen to be applied in a safe order",
        """Exposed, but the kernel was seen to apply the two in a safe order. What the rule takes as evidence for
        that is in `eofrace explain RULE`.""",
    ),
    _topic(
        Outcome.LOST.label,
        _PAIR,
        "acknowledged data was cut off or overwritten",
        """Acknowledged data was cut off or overwritten. What the rule takes as evidence for that is in `eofrace
        explain RULE`; not every rule can show it.""",
    ),
)

STATUSES = (
    _topic("0", _STATUS, "all is well", "Every protecting strategy is confirmed, or nothing was found."),
    _topic("1", _STATUS, "a hazard or a loss where none may be", "A verdict is unsafe, corrupt, or racy."),
    _topic("2", _STATUS, "wrong usage or bad input", "An option, a file, a trace: the message names it."),
    _topic("3", _STATUS, "inconclusive", "The run ended without the evidence that a verdict needs. It is no success."),
    _topic("4", _STATUS, "this host cannot do it", "The message says what is missing, and how to get it."),
    _topic("70", _STATUS, "a bug in eofrace", "A traceback stands above. Python's own 1 would read as a hazard."),
    _topic("130", _STATUS, "interrupted", "By Ctrl-C (128 + SIGINT), in a command that had nothing to keep."),
    _topic("141", _STATUS, "the reader of the output had enough", "128 + SIGPIPE, as of `| head`."),
    _topic("143", _STATUS, "terminated", "128 + SIGTERM."),
)


def of_rule(rule: Rule) -> Topic:
    """What a rule says of itself, as on its page (docs/rules.md)."""
    never = "never claimed: a trace cannot show it."
    return Topic(
        rule.id,
        f"hazard rule, {rule.severity}",
        rule.title,
        (
            rule.explanation,
            f"Why it is no normal use. {rule.argument}",
            f"Lost: {rule.lost or never}",
            f"Kernel-serialised: {rule.serialised or never}",
            f"In watch: {rule.watched or 'not decided in the kernel.'}",
            "It is real: " + "; ".join(map(str, rule.commits)) + ".",
        ),
    )


def topics(rules: Iterable[Rule]) -> tuple[Topic, ...]:
    """Everything that can be explained, in the order of the list."""
    return (*VERDICTS, *OUTCOMES, *map(of_rule, rules), *STATUSES)
