"""Rules of tests have nothing to say of themselves."""

from tracer.analysis.examples import ExampleTrace
from tracer.analysis.rules import Commit, Severity
from tracer.operations import Op


class Wordless:
    """All that `Rule` asks for but its id and what it does; to be named before PairRule or ScanRule."""

    severity = Severity.SUSPICIOUS
    title = explanation = argument = lost = serialised = watched = ""
    commits: tuple[Commit, ...] = ()
    example = almost = ExampleTrace((), "")
    needs: frozenset[Op] = frozenset()
    reads: frozenset[str] = frozenset()
