"""Fixtures for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from m2cache_rs._core import isa

from tests.reference.shared import shared_folder

pytest_plugins = ["tests.stores", "tests.benches", "tests.tuning"]

# A background job inherits an ignored SIGINT, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"instruction set: {isa()[1]}, of {', '.join(isa()[0])}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared models and texts; tests that need them skip where they are not there."""
    folder = shared_folder()
    if folder is None:
        pytest.skip(
            "the shared models and texts are not there (../shared, or the folder M2CACHE_SHARED names)"
        )
    return folder
