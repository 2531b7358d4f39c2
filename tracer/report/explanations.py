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
_SCHEDULE = "outcome of a schedule, in explore"
_STANDING = "what a report makes of a cell"
_CAMPAIGN = "state of a cell of a campaign"
_BENCH = "what bench or campaign compare says of a side"
_STOPPED = "why bench stopped"
_ROLE = "role of a cell"
_STRATEGY = "strategy"
_FALLOCATE = "behaviour of fallocate"
_EVIDENCE = "source of evidence"
_SEVERITY = "severity of a rule"
_FACT = "fact of doctor"
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

SCHEDULES = (
    _topic("safe", _SCHEDULE, "nothing met that must not", "No pair was exposed, and the guest's data is all there."),
    _topic(
        "exposed",
        _SCHEDULE,
        "a pair met, and nothing was lost",
        "A pair that must not meet was in the simulated kernel together; the guest's data is all there.",
    ),
    _topic(
        "lost",
        _SCHEDULE,
        "acknowledged data does not read back",
        "Acknowledged guest data does not read back. `explore --replay` runs the schedule again, step by step.",
    ),
    _topic(
        "deadlock",
        _SCHEDULE,
        "nothing can go on, and not all is done",
        "Every request waits for another one: the strategy has a deadlock. It counts as worse than a loss.",
    ),
)

STANDINGS = (
    _topic(
        "passed",
        _STANDING,
        "a strategy is confirmed, or a control shows the hazard",
        "A protecting strategy is confirmed; or it is a control, which is unsafe or corrupt, as it must be.",
    ),
    _topic(
        "failed",
        _STANDING,
        "unsafe or corrupt where that may not be; or a silent control",
        """A protecting strategy is unsafe or corrupt (exit status 1); or a control shows nothing, so that the run
        proves nothing (3).""",
    ),
    _topic(
        "error",
        _STANDING,
        "inconclusive, or it does not fit its trace",
        """The cell is inconclusive, or what is said of it is not borne out: its trace shows more, is that of another
        cell, or is gone. The reason stands beside it.""",
    ),
    _topic(
        "skipped",
        _STANDING,
        "nothing is claimed",
        """`auto` left the order to the kernel, which the probe calls safe: pairs are exposed by design, nothing was
        lost, and nothing is claimed.""",
    ),
)

CAMPAIGNS = (
    _topic("fine", _CAMPAIGN, "it ended with exit status 0", "It has a result, and that is no hazard."),
    _topic("hazard", _CAMPAIGN, "it ended with exit status 1", "A protecting strategy is unsafe or corrupt."),
    _topic(
        "inconclusive",
        _CAMPAIGN,
        "it ended with exit status 3",
        "It has a result, which lacks the evidence for a verdict; of bench, too few rounds. It is not done again.",
    ),
    _topic(
        "error",
        _CAMPAIGN,
        "it came to nothing",
        """The command failed, did not end in time, or printed what does not fit together. It is never green, and the
        next run of the campaign does it again. In results.parquet it is a verdict.""",
    ),
    _topic("unfinished", _CAMPAIGN, "it has not been run to its end", "The same command again does what is left."),
    _topic(
        "measured",
        _CAMPAIGN,
        "a bench with enough rounds",
        "The verdict of a cell of bench in results.parquet: there are enough rounds to conclude something from.",
    ),
    _topic(
        "worse",
        _CAMPAIGN,
        "a verdict fell, or a ratio is higher",
        """Compared with an older run: a protecting strategy's verdict fell, a control fell silent or loses data and did
        not before, or a side of bench is slower. Exit status 1.""",
    ),
    _topic("better", _CAMPAIGN, "a verdict rose", "Compared with an older run. It is told, and fails nothing."),
)

BENCHES = (
    _topic("faster", _BENCH, "the whole interval is below 1", "The interval of the ratio of times lies below 1."),
    _topic("slower", _BENCH, "the whole interval is above 1", "The interval of the ratio of times lies above 1."),
    _topic(
        "no-difference-shown",
        _BENCH,
        "the interval holds 1",
        "The interval of the ratio of times holds 1. That does not show that there is no difference.",
    ),
    _topic(
        "too-few-rounds",
        _BENCH,
        "nothing is concluded",
        "Too few rounds were run to conclude anything from: a larger `--budget` may help.",
    ),
    _topic("narrow", _STOPPED, "every interval is narrow enough", "More rounds would not have changed the answer."),
    _topic("budget", _STOPPED, "the time was over", "An interval is wider than asked for: `--budget` sets the time."),
)

ROLES = (
    _topic(
        "control",
        _ROLE,
        "it is there to show the hazard",
        """The same run with nothing that keeps the operations apart (`none`). It is expected to be unsafe, and corrupt
        under `legacy-xfs`: that proves that a hazard would be seen. Where it shows nothing, its column proves nothing,
        and the run is inconclusive.""",
    ),
    _topic(
        "none",
        _STRATEGY,
        "zero-writes and AIO writes unordered: the control",
        "QEMU 4.1, which orders nothing. It always runs, whatever `--strategy` asks for (`eofrace explain control`).",
    ),
    _topic(
        "serialise-xfs-native",
        _STRATEGY,
        "option 1 of the RFC",
        """On XFS with aio=native a zero-write beyond EOF waits for everything behind it, and everything behind waits
        for it.""",
    ),
    _topic("skip-zero-xfs", _STRATEGY, "option 2", "No zero-writes for new clusters if the image lies on XFS."),
    _topic("no-alloc-space", _STRATEGY, "option 3", "No zero-writes for new clusters anywhere."),
    _topic("serialise", _STRATEGY, "QEMU 4.2 to today", "Option 1 on every file system and in every AIO mode."),
    _topic(
        "auto",
        _STRATEGY,
        "serialise where a probe does not say safe",
        "Where it says safe, the order is left to the kernel, and nothing is claimed (`eofrace explain skipped`).",
    ),
    _topic("kernel", _FALLOCATE, "as the running kernel does it", "One system call, and nothing else."),
    _topic(
        "legacy-xfs",
        _FALLOCATE,
        "in the racy order of XFS before 5.5",
        """Made of system calls that are safe by themselves. It loses real data on any kernel, so that a healthy host,
        too, shows that the harness sees a loss.""",
    ),
    _topic(
        "no-zero-range",
        _FALLOCATE,
        "a file system without FALLOC_FL_ZERO_RANGE",
        "Zeroes are a hole that is punched and then allocated by a plain fallocate, as QEMU does there.",
    ),
    _topic("kernel", _EVIDENCE, "seen by eBPF", "Begin and end of every system call were seen inside the kernel."),
    _topic(
        "driver",
        _EVIDENCE,
        "the driver's own clock",
        "Times around its system calls, where the kernel was not watched: another order inside is not excluded.",
    ),
)

SEVERITIES = (
    _topic("data-loss", _SEVERITY, "acknowledged data may be gone", "Of the rule, whether something was lost or not."),
    _topic("stale-data", _SEVERITY, "old data may be read", "Data that was written before may come back."),
    _topic("suspicious", _SEVERITY, "which of two writes wins is chance", "A program seldom means that."),
)

FACTS = (
    _topic("yes", _FACT, "it was tried, and works", "Every line of doctor is the outcome of doing the thing once."),
    _topic("no", _FACT, "kernel evidence needs it", "It does not work; below it stands what to install or change."),
)

STATUSES = (
    _topic("0", _STATUS, "all is well", "Every protecting strategy is confirmed, or nothing was found."),
    _topic("1", _STATUS, "a hazard or a loss where none may be", "A verdict is unsafe, corrupt, or racy."),
    _topic("2", _STATUS, "wrong usage or bad input", "An option, a file, a closed output: the message names it."),
    _topic("3", _STATUS, "inconclusive", "The run ended without the evidence that a verdict needs. It is no success."),
    _topic("4", _STATUS, "this host cannot do it", "The message says what is missing, and how to get it."),
    _topic("70", _STATUS, "a bug in eofrace", "A traceback stands above. Python's own 1 would read as a hazard."),
    _topic("129", _STATUS, "its terminal is gone", "128 + SIGHUP."),
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
    words = (*SCHEDULES, *STANDINGS, *CAMPAIGNS, *BENCHES, *ROLES, *SEVERITIES, *FACTS)
    return (*VERDICTS, *OUTCOMES, *map(of_rule, rules), *STATUSES, *words)
