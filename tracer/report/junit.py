"""A report as JUnit XML, for the dashboard of a CI.

Each recording is a test suite of one test case: the figures are properties, and a test case has none in the schema that
Jenkins' xUnit plugin checks (junit-10.xsd; pytest and GitLab go by it). They stand in the case's system-out as well,
which is what dashboards show.

A dashboard knows `passed`, and whatever is not passed. So a cell that is inconclusive is an error, a strategy that is
unsafe or corrupt a failure; a control passes that shows the hazard, and fails where it is silent. A cell that left the
order to the kernel is skipped: nothing is claimed of it. Where the run's verdict is worse than all that, the run itself
is one more case: a report never looks better than the command's exit status.
"""

from pathlib import Path
from xml.etree import ElementTree as Xml

from tracer.analysis.hazards import Verdict
from tracer.output import atomic_output
from tracer.report import figures
from tracer.report.escape import printable
from tracer.report.hazard_text import MAX_SENTENCES, sentence
from tracer.report.source import Recording, Source
from tracer.report.standing import Assessed, Standing, assess_all, concluded

_TAGS = {Standing.FAILED: "failure", Standing.ERROR: "error", Standing.SKIPPED: "skipped"}


def write(source: Source, target: str | Path) -> None:
    """Write the report. Raises like `tracer.output.atomic_output`."""
    tree = Xml.ElementTree(document(source))
    Xml.indent(tree)
    with atomic_output(target) as file:
        tree.write(file, encoding="utf-8", xml_declaration=True)
        file.write(b"\n")


def document(source: Source) -> Xml.Element:
    """The root element. What XML cannot hold, and what is not printable, stands in it escaped."""
    assessed = assess_all(source)
    verdict, reason = concluded(source, assessed)
    suites = [_suite(recording, one) for recording, one in zip(source.recordings, assessed, strict=True)]
    standings = [one.standing for one in assessed]
    if verdict is not Verdict.CONFIRMED and not {Standing.FAILED, Standing.ERROR} & set(standings):
        standings.append(Standing.ERROR if verdict is Verdict.INCONCLUSIVE else Standing.FAILED)
        suites.append(_of_run(standings[-1], verdict, reason))
    root = Xml.Element("testsuites", {"name": "eofrace", **_counts(standings)})
    run = Xml.SubElement(suites[0], "properties") if (found := suites[0].find("properties")) is None else found
    for name, value in {**figures.of_run(source), "run_verdict": verdict.value, "run_reason": reason}.items():
        _property(run, name, value)
    root.extend(suites)
    return root


def _suite(recording: Recording, one: Assessed) -> Xml.Element:
    found = figures.of_recording(recording)
    suite = _empty(recording.name, one.standing)
    properties = Xml.SubElement(suite, "properties")
    for name, value in found.items():
        _property(properties, name, value)
    for doubt in one.doubts:
        _property(properties, "not_complete", doubt)
    groups = [found.get(name, "") for name in ("fs", "aio", "fallocate")]
    # Dots make folders in a dashboard: none of a hostile name's.
    place = ".".join(["eofrace", *(printable(group).replace(".", "_") for group in groups if group)])
    case = _case(suite, recording.name, place, one.standing, one.reason, recording.verdict)
    lines = [f"{name}: {value}" for name, value in found.items()]
    lines += [f"not complete: {doubt}" for doubt in one.doubts]
    hazards = () if recording.analysis is None else recording.analysis.hazards
    lines += ["".join(map(_plain, sentence(hazard))) for hazard in hazards[:MAX_SENTENCES]]
    Xml.SubElement(case, "system-out").text = "\n".join(map(printable, lines))
    return suite


def _of_run(standing: Standing, verdict: Verdict, reason: str) -> Xml.Element:
    """A case for a verdict that no recording explains."""
    suite = _empty("the run", standing)
    _case(suite, "the run", "eofrace", standing, reason, verdict)
    return suite


def _case(suite: Xml.Element, name: str, place: str, standing: Standing, reason: str, verdict: Verdict) -> Xml.Element:
    case = Xml.SubElement(suite, "testcase", name=printable(name), classname=place)
    tag = _TAGS.get(standing)
    if tag is not None:
        Xml.SubElement(case, tag, type=verdict.value, message=printable(reason)).text = printable(reason)
    return case


def _empty(name: str, standing: Standing) -> Xml.Element:
    counts = {**_counts([standing]), "skipped": str(int(standing is Standing.SKIPPED))}
    return Xml.Element("testsuite", {"name": printable(name), **counts})


def _counts(standings: list[Standing]) -> dict[str, str]:
    return {
        "tests": str(len(standings)),
        "failures": str(standings.count(Standing.FAILED)),
        "errors": str(standings.count(Standing.ERROR)),
    }


def _property(properties: Xml.Element, name: str, value: str) -> None:
    Xml.SubElement(properties, "property", name=printable(name), value=printable(value))


def _plain(part: str | tuple[str, str]) -> str:
    return part if isinstance(part, str) else part[0]
