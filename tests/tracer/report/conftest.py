"""One headless Chromium for all tests of a module that need it, and pages in it that are watched."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.report.html_browser import Watched


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; skips where there is none. Not for the session: while it is there, an event loop runs in this thread
    (Playwright's), so that no other test of the process could run its own.
    """
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'eofrace[test]'")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium (apt install chromium)")
    with api.sync_playwright() as playwright:
        # Its sandbox refuses to run as root.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Watched]]:
    """Open a file as a reader would, and watch what it does."""
    contexts = []

    def open_page(path: Path, **options: Any) -> Watched:
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": 900}, **options))
        return Watched(contexts[-1].new_page(), path)

    yield open_page
    for context in contexts:
        context.close()
