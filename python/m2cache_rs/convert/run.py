"""A checkpoint becomes a store: layer by layer, resumable, published in one step."""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2cache_rs import _core
from m2cache_rs.convert import encoding as encodings
from m2cache_rs.convert import equalize as equalizing
from m2cache_rs.convert.checkpoint import Checkpoint, check, read_asset
from m2cache_rs.convert.equalize import Calibration
from m2cache_rs.convert.files import FileWriter
from m2cache_rs.convert.journal import replace_file
from m2cache_rs.convert.measured import Measured
from m2cache_rs.convert.open import open_checkpoint
from m2cache_rs.convert.partial import Partial
from m2cache_rs.convert.source import io_error
from m2cache_rs.convert.stripes import check_stripes, same_device
from m2cache_rs.convert.target import check_apart, check_target
from m2cache_rs.errors import CheckpointError, StoreIOError

ZERO_SHARE = 0.01
"""Exact zeros above this share are worth a warning: they decode to half a cell."""

_SPARE = 1 << 20  # manifest, journal and the directory itself


@dataclass(frozen=True)
class Progress:
    """How far a conversion is, in bytes read of the source; `resumed` of them in an earlier run."""

    done: int
    total: int
    resumed: int
    file: str


@dataclass(frozen=True)
class ConvertReport:
    """What was made. `bits_per_weight` is by level, scales included; `roots` are the directories that hold
    the files, the store first; `notes` are warnings."""

    path: str
    id: str
    bytes: int
    source_bytes: int
    weights: int
    zeros: int
    bits_per_weight: dict[int, float]
    form: str
    group: int
    planes: int
    sections: str
    roots: tuple[str, ...]
    equalize: dict[str, Any] | None
    resumed_files: int
    files: int
    seconds: float
    notes: tuple[str, ...]

    @property
    def zero_share(self) -> float:
        """Exact zeros inside groups that are not all zero, as a share of all weights."""
        return self.zeros / self.weights

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"zero_share": self.zero_share}


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    form: str = "affine",
    group: int = 64,
    planes: str = "all",
    sections: str | None = None,
    equalize: bool = True,
    calibration: Calibration | None = None,
    force: bool = False,
    tokenizer: str | Path | None = None,
    stripe: Sequence[str | Path] = (),
    progress: Callable[[Progress], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> ConvertReport:
    """Converts a model directory, hub id or llama2.c file into a store at `dst`.

    `dst` appears at once when everything is written; until then the work is in `dst`.partial, which the same
    call resumes. `sections` is a preset (split, bundled, gated), or None for what suits the activation;
    channels are equalised by `calibration` where given, else by the weights unless `equalize` is false (the
    f32 function stays the same to the bit). `stripe` names directories on other devices: the files are
    spread over `dst` and a new directory in each of them, so that devices are read in parallel. `notify`
    gets what the user should know (the package's logger without it). Memory stays below 1 GiB whatever the
    model. The defaults follow docs/format-decision.md.

    Raises `UsageError`, `CheckpointError`, `UnsupportedError`, `StoreIOError`.
    """
    begun = time.monotonic()
    target = check_target(dst, force)
    stripes = check_stripes(stripe, target)
    checkpoint = open_checkpoint(src, tokenizer)
    try:
        check_apart(checkpoint.path, target)
        for one in stripes:
            check_apart(checkpoint.path, one.parent / target.name)
        shared = same_device(stripes)
        notes = [*check(checkpoint), *([shared] if shared else [])]
        encoding = encodings.choose(checkpoint.architecture, form, group, planes, sections)
        job = _Job(checkpoint, encoding, equalize or calibration is not None, calibration, progress)
        tell = notify or logging.getLogger("m2cache_rs.convert").warning
        for note in notes:
            tell(note)
        with Partial(target, stripes) as partial:
            store, resumed = job.run_in(partial, tell, force)
    finally:
        checkpoint.close()
    return job.report([target, *partial.roots], store, resumed, time.monotonic() - begun, notes)


class _Job:
    def __init__(
        self,
        checkpoint: Checkpoint,
        encoding: encodings.Encoding,
        equalized: bool,
        calibration: Calibration | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.encoding = encoding
        self.equalized = equalized
        self.calibration = calibration
        self.equalize = equalizing.describe(equalized, calibration)
        self.progress = progress
        self.state = Progress(0, 0, 0, "")
        self.entries: list[dict[str, Any]] = []

    def run_in(self, partial: Partial, tell: Callable[[str], None], replace: bool) -> tuple[str, int]:
        """Writes what is missing and publishes; returns the store's id and how many files were there."""
        try:
            return self._run_in(partial, tell, replace)
        except OSError as err:
            raise _explained(err, partial) from err

    def _run_in(self, partial: Partial, tell: Callable[[str], None], replace: bool) -> tuple[str, int]:
        architecture = self.checkpoint.architecture
        texts = architecture.to_json(), json.dumps(self.encoding.to_dict())
        writer = _core.StoreWriter(str(partial.path), *texts, [str(one.partial) for one in partial.stripes])
        source, stamps = self.checkpoint.fingerprint(), self.checkpoint.stamps()
        message = partial.resume(self._plan(source, stamps, partial), writer)
        if message is not None:
            tell(message)
        resumed = len(partial.journal.entries)
        measured = Measured(partial.target)
        for word in filter(None, [measured.foretold(self._shape())]):
            tell(word)
        partial.check_space(self._space(writer, partial))
        self._assets(partial)
        self._files(writer, partial)
        if self.checkpoint.stamps() != stamps:
            raise CheckpointError(f"{self.checkpoint.path} changed while it was converted; run this again")
        store = writer.finish(json.dumps(self._extra(source, partial.name_roots())))
        for word in filter(None, [measured.keep(partial.path, store)]):
            tell(word)
        partial.publish(replace)
        self.entries = [json.loads(entry) for entry in partial.journal.entries]
        return store, resumed

    def _plan(self, source: dict[str, Any], stamps: list[list[int]], partial: Partial) -> dict[str, Any]:
        return {
            "generator": _generator(),
            "source": source,
            "stamps": stamps,
            **self._shape(),
            "equalize": self.equalize,
            "stripes": [str(stripe.parent) for stripe in partial.stripes],
        }

    def _shape(self) -> dict[str, Any]:
        return {
            "architecture": self.checkpoint.architecture.to_dict(),
            "encoding": self.encoding.to_dict(),
        }

    def _extra(self, source: dict[str, Any], roots: list[str]) -> dict[str, Any]:
        return {
            "generator": _generator(),
            "source": source,
            "equalize": self.equalize,
            "synthetic": False,
            "assets": sorted(self.checkpoint.assets),
            "roots": roots,
        }

    def _space(self, writer: _core.StoreWriter, partial: Partial) -> list[int]:
        """Bytes still to be written, by root."""
        done = {json.loads(entry)["name"] for entry in partial.journal.entries}
        needed = [_SPARE] * (1 + len(partial.stripes))
        needed[0] += sum(len(read_asset(asset)) for asset in self.checkpoint.assets.values())
        for (name, size), root in zip(writer.files(), writer.roots(), strict=True):
            needed[root] += 0 if name in done else size
        return needed

    def _assets(self, partial: Partial) -> None:
        for name, content in self.checkpoint.assets.items():
            replace_file(partial.path / name, read_asset(content))

    def _files(self, writer: _core.StoreWriter, partial: Partial) -> None:
        files = FileWriter(
            writer, self.checkpoint.architecture, self._advance, self.equalized, self.calibration
        )
        done = {json.loads(entry)["name"] for entry in partial.journal.entries}
        work = [
            (name, parts) for (name, _), parts in zip(writer.files(), self.checkpoint.parts(), strict=True)
        ]
        resumed = sum(files.work(parts) for name, parts in work if name in done)
        self.state = Progress(resumed, sum(files.work(parts) for _, parts in work), resumed, "")
        for layer, (name, parts) in enumerate(work):
            if name not in done:
                self._advance(0, name)
                partial.finished(files.write(name, layer, parts))

    def _advance(self, count: int, name: str | None = None) -> None:
        state = self.state
        self.state = Progress(state.done + count, state.total, state.resumed, name or state.file)
        if self.progress is not None:
            self.progress(self.state)

    def report(
        self, roots: list[Path], store: str, resumed: int, seconds: float, notes: list[str]
    ) -> ConvertReport:
        """What was made."""
        encoding, checkpoint = self.encoding, self.checkpoint
        parts = [part for file in checkpoint.parts() for part in file.values()]
        return ConvertReport(
            path=str(roots[0]),
            id=store,
            bytes=sum(file.stat().st_size for root in roots for file in root.iterdir() if file.is_file()),
            source_bytes=sum(part.bytes for part in parts),
            weights=sum(entry["weights"] for entry in self.entries),
            zeros=sum(entry["zeros"] for entry in self.entries),
            bits_per_weight=encoding.bits_per_weight(checkpoint.architecture.hidden),
            form=encoding.form,
            group=encoding.group,
            planes=encoding.planes,
            sections=encoding.preset,
            roots=tuple(str(root) for root in roots),
            equalize=self.equalize,
            resumed_files=resumed,
            files=len(self.entries),
            seconds=seconds,
            notes=tuple(notes),
        )


def _generator() -> str:
    return f"m2cache-rs {_core.__version__}"


def _explained(err: OSError, partial: Partial) -> StoreIOError:
    """The error with the way out: what is finished stays, and a full disk is named."""
    known = err if isinstance(err, StoreIOError) else io_error("writing into", partial.path, err)
    if known.errno != errno.ENOSPC or not partial.journal.entries:
        return known
    explained = StoreIOError(
        f"{known}; finished files are kept in {partial.path}: free some space and run the same command again"
    )
    explained.errno = errno.ENOSPC
    return explained
