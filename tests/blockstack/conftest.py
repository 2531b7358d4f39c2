"""Options of `blockstack.open` that this file system allows."""

from pathlib import Path
from typing import TypedDict

import pytest

from tests.blockstack.support import o_direct


class How(TypedDict):
    """Keywords of `blockstack.open`."""

    aio: str
    direct: bool


@pytest.fixture
def how(tmp_path: Path) -> How:
    """aio=native with O_DIRECT where it can be had, else threads through the page cache."""
    return {"aio": "native", "direct": True} if o_direct(tmp_path) else {"aio": "threads", "direct": False}


@pytest.fixture
def direct(tmp_path: Path) -> None:
    """Skips where O_DIRECT is refused."""
    if not o_direct(tmp_path):
        pytest.skip(f"needs O_DIRECT, which the file system of {tmp_path} refuses")
