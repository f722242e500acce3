"""The further directories of a striped store: where the user wants them, and the names they get there."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2cache_rs.config import user_path
from m2cache_rs.convert.target import PARTIAL, check_parent
from m2cache_rs.errors import UsageError


@dataclass(frozen=True)
class Stripe:
    """One further root of the store at `target`, made inside the user's directory `parent`.

    Its name tells stores of the same name apart by a hash of the target's path; a number tells a new root
    from one that the store being replaced still uses, so that both exist until the manifest is exchanged.
    """

    parent: Path
    target: Path
    relative: bool = False

    @property
    def _place(self) -> Path:
        return self.target.parent.resolve() / self.target.name

    @property
    def _stem(self) -> str:
        return f"{self.target.name}.stripe-{hashlib.sha256(os.fsencode(self._place)).hexdigest()[:8]}"

    @property
    def partial(self) -> Path:
        """Where its files are written."""
        return self.parent / f"{self._stem}{PARTIAL}"

    def free(self) -> Path:
        """The first name that nothing has yet."""
        names = (self.parent / f"{self._stem}-{number}" for number in itertools.count(1))
        return next(name for name in names if not os.path.lexists(name))

    def seen(self, root: Path) -> str:
        """How the manifest names `root`: as the user named its parent, absolute or seen from the store."""
        if not self.relative:
            return str(root)
        return os.path.relpath(root.parent.resolve() / root.name, self._place)


def check_stripes(directories: Sequence[str | Path], target: Path) -> list[Stripe]:
    """The stripes of the store at `target`.

    Raises `UsageError` for directories that cannot be stripes, `StoreIOError` for one that cannot be written.
    """
    named = [user_path(one) for one in directories]
    stripes = [Stripe(Path(os.path.abspath(path)), target, not path.is_absolute()) for path in named]
    for stripe in stripes:
        check_parent(stripe.parent)
        _check_name(stripe.parent)
        if target.resolve() in (stripe.parent.resolve(), *stripe.parent.resolve().parents):
            raise UsageError(
                f"the stripe {stripe.parent} lies inside the store {target}; name a place outside it"
            )
    for first, second in itertools.combinations(stripes, 2):
        if first.parent.samefile(second.parent):
            raise UsageError(f"--stripe names {second.parent} twice; one directory per device is enough")
    return stripes


def same_device(stripes: Sequence[Stripe]) -> str | None:
    """A word on directories that share a file system, if some do."""
    if not stripes:
        return None
    places = [stripes[0].target.parent, *(stripe.parent for stripe in stripes)]
    for first, second in itertools.combinations(places, 2):
        if first.stat().st_dev == second.stat().st_dev:
            return f"{first} and {second} are one file system: striping over one device gains nothing"
    return None


def _check_name(parent: Path) -> None:
    text = str(parent)
    if not text.isprintable():
        raise UsageError(f"the stripe {text!r} has characters that a manifest cannot name; rename it")
