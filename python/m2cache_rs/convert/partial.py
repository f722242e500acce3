"""The directories of an unfinished store, `NAME.partial` and its stripes: resumed, and at last renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from m2cache_rs import _core
from m2cache_rs.config import format_size
from m2cache_rs.convert.journal import NAME as JOURNAL
from m2cache_rs.convert.journal import Journal, sync_directory
from m2cache_rs.convert.stripes import Stripe
from m2cache_rs.convert.target import MANIFEST, PARTIAL
from m2cache_rs.convert.workplace import Workplace
from m2cache_rs.errors import StoreIOError, UsageError


class Partial:
    """A context: inside it the directories exist and belong to this process alone.

    An error before the first file is finished removes them; afterwards they stay, to be resumed. A striped
    store has one more directory for each stripe, and becomes a store when the one with the manifest is
    renamed: by then the stripes have their names, which no other store uses.
    """

    def __init__(self, target: Path, stripes: Sequence[Stripe] = ()) -> None:
        self.target = target
        self.path = target.with_name(target.name + PARTIAL)
        self.journal = Journal({})
        self.stripes = stripes
        self.roots: list[Path] = []
        self._place = Workplace(self.path)
        self._places = [self._place, *(Workplace(stripe.partial) for stripe in stripes)]
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> Partial:
        with contextlib.ExitStack() as entered:
            entered.enter_context(self._place)
            # A run that was killed while it published has named its stripes, or not removed the old ones.
            _core.remove_roots(str(self.path), str(self.target))
            self._discard_former_stripes()
            for place in self._places[1:]:
                entered.enter_context(place)
            self._entered = entered.pop_all()
        return self

    def _discard_former_stripes(self) -> None:
        earlier = Journal.read(self.path)
        former = earlier.plan.get("stripes") if earlier else None
        for parent in former if isinstance(former, list) else []:
            stripe = Stripe(Path(str(parent)), self.target)
            if stripe.partial.is_dir() and all(stripe.parent != other.parent for other in self.stripes):
                with contextlib.suppress(OSError, UsageError), Workplace(stripe.partial) as place:
                    place.discard()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        earlier = Journal.read(self.path)
        if error is not None and not (earlier and earlier.entries):
            with contextlib.suppress(OSError, UsageError):
                self.discard()
        self._entered.close()

    def resume(self, plan: dict[str, Any], writer: _core.StoreWriter) -> str | None:
        """Adopts what an earlier run of the same plan finished, removes the rest; returns a word on it."""
        earlier = Journal.read(self.path)
        same = earlier is not None and earlier.plan == plan
        adopted = [entry for entry in earlier.entries if writer.adopt(entry)] if earlier and same else []
        self.journal = Journal(plan, adopted)
        for place in self._places:
            place.clear({json.loads(entry)["name"] for entry in adopted})
        self.journal.write(self.path)
        if adopted:
            return f"resuming: {len(adopted)} of {len(writer.files())} files are finished already"
        if earlier is not None and earlier.entries:
            return f"starting over: {self.path} was made from another source or with other options"
        return None

    def discard(self) -> None:
        """Removes the directories and what is in them, the journal last."""
        for place in reversed(self._places):
            place.discard()

    def check_space(self, needed: Sequence[int]) -> None:
        """Raises `StoreIOError` where a file system has less left than its roots need, in bytes by root."""
        for path, wanted in _by_device([place.path for place in self._places], needed):
            free = shutil.disk_usage(path).free
            if wanted > free:
                error = StoreIOError(
                    f"not enough space in {path.parent}: the store needs {format_size(wanted)} more, "
                    f"{format_size(free)} are free"
                )
                error.errno = errno.ENOSPC
                raise error

    def finished(self, entry: str) -> None:
        """Notes a finished file."""
        self.journal.entries.append(entry)
        self.journal.write(self.path)

    def name_roots(self) -> list[str]:
        """Decides what the stripes will be called; returns how the manifest names them."""
        self.roots = [stripe.free() for stripe in self.stripes]
        return [stripe.seen(root) for stripe, root in zip(self.stripes, self.roots, strict=True)]

    def publish(self, replace: bool) -> None:
        """Renames the finished directories into place; should that fail, they can still be resumed."""
        try:
            for stripe, root in zip(self.stripes, self.roots, strict=True):
                _core.publish(str(stripe.partial), str(root), False)
            (self.path / JOURNAL).unlink()
            _core.publish(str(self.path), str(self.target), replace)
        except BaseException:
            if (self.path / MANIFEST).exists() and not self._place.is_at(self.target):
                self._take_back()
                self.journal.write(self.path)
            raise

    def _take_back(self) -> None:
        for place, root in zip(self._places[1:], self.roots, strict=True):
            if place.is_at(root):
                os.rename(root, place.path)
                sync_directory(root.parent)


def _by_device(paths: Sequence[Path], needed: Sequence[int]) -> Iterator[tuple[Path, int]]:
    """One path of every file system, with the bytes that all paths on it need."""
    devices = [path.stat().st_dev for path in paths]
    for device in dict.fromkeys(devices):
        wanted = sum(size for one, size in zip(devices, needed, strict=True) if one == device)
        yield paths[devices.index(device)], wanted
