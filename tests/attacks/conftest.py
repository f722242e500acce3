"""A sound store for every attack to spoil a copy of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks import forge


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that must not be changed."""
    return forge.write(tmp_path_factory.mktemp("sound") / "sound.m2c")


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the same shape with other weights."""
    return forge.write(tmp_path_factory.mktemp("foreign") / "foreign.m2c", seed=2)


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return forge.copy(sound, tmp_path / "spoilt.m2c")
