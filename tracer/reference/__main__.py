"""Write all documents that are made of the code: python -m tracer.reference."""

import json
from pathlib import Path

from tracer.analysis.rules import own_rules
from tracer.reference import man, pages
from tracer.reference.schemas import DOCUMENTS
from tracer.report import rules_markdown

ROOT = Path(__file__).parents[2] / "docs"


def documents() -> dict[Path, str]:
    """Path -> what stands in it."""
    rules = ROOT / "rules.md"
    made = {ROOT / "man" / name: page for name, page in man.pages().items()}
    made |= {
        ROOT / "reference" / "schemas" / f"{name}.json": json.dumps(schema, indent=1) + "\n"
        for name, schema in DOCUMENTS.items()
    }
    return made | {
        ROOT / "reference" / "commands.md": pages.commands(),
        ROOT / "reference" / "trace.md": pages.trace(),
        ROOT / "reference" / "json.md": pages.schemas(DOCUMENTS),
        rules: rules_markdown.page(rules.read_text(), own_rules()),
    }


def main() -> None:
    """Write them, where they are not as they should be."""
    for path, text in documents().items():
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(path.relative_to(ROOT.parent))


if __name__ == "__main__":
    main()
