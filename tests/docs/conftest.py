"""What the modules that execute documented commands have in common."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.running import Server, make_place, serving


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("documented"))


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    with serving(place) as server:
        yield server
