"""The loop of extract, detect and cluster: labelled inputs, each treated once and recorded."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from facerec import stores
from facerec.artifacts import sha256_of, written_together
from facerec.errors import FacerecError, InputError, UsageError
from facerec.images import natural_key
from facerec.manifests import Manifest, Record, manifest_of
from facerec.parallel import MOST, Crashed, chunked, spread, worker_name
from facerec.scratch import Tables, packed, unpacked
from facerec.types import Failure, Progress, StageReport, no_progress

log = logging.getLogger("facerec")


@dataclass(frozen=True, slots=True)
class Item:
    """One input of a stage.

    Attributes:
        path: the file.
        label: the person.
        split: "train", "test", "gap" or empty.
        name: path of the output below the label's folder, without suffix.
        options: what only this item's outputs depend on.
    """

    path: Path
    label: str
    split: str = ""
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)


Work = Callable[[Item], list[dict[str, Any]]]
"""Makes and writes an item's outputs; raises `InputError` where the input is at fault. Where it is to run in other
processes it is a `functools.partial` of a module's function."""

TABLES = """
CREATE TABLE items (number INTEGER PRIMARY KEY, key BLOB, place BLOB, item BLOB, new INTEGER DEFAULT 1);
CREATE INDEX by_key ON items (key);
CREATE INDEX by_place ON items (place);
CREATE TABLE owners (place BLOB PRIMARY KEY, key BLOB) WITHOUT ROWID;
"""
"""Of a run. A place is what no two items of a folder may share: split, label and name of the outputs."""

PROCESSES = 200  # items from which processes of their own, which share no lock, win more than they take to start


def require_some(items: Iterator[Item], what: str, cure: str) -> Iterator[Item]:
    """The items; raises where there is none."""
    first = next(items, None)
    if first is None:
        raise UsageError(what, cure)
    return itertools.chain([first], items)


def process(
    stage: str,
    items: Iterable[Item],
    roots: Sequence[Path],
    output: Path,
    options: dict[str, Any],
    work: Work,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    together: int = MOST,
    keep: bool = False,
    force: bool = False,
    strict: bool = False,
    progress: Progress = no_progress,
) -> StageReport:
    """Runs `work` on the items that are new or changed and records each in the output's manifest.

    Args:
        stage: its name.
        items: what to treat; drawn once.
        roots: the folders or files that were asked for; recorded inputs below them that are gone are
            removed, with what was made of them.
        output: the stage's folder.
        options: what all outputs depend on.
        work: makes the outputs of one item.
        jobs: items treated side by side.
        cluster: where else they are treated, see `facerec.parallel.spread`.
        together: items that go to another process at once, at most.
        keep: what was made of inputs that are gone, and say so.
        force: treat all again.
        strict: stop at the first input that fails.
        progress: shows how far it is.

    Raises:
        ArtifactError: the output cannot be written.
        InputError: an input failed, and `strict`.
        UsageError: the cluster cannot be reached, or would not see the folders; the output is another stage's.
        FacerecError: a store does not answer, has no such bucket, or forbids it.
    """
    start = time.perf_counter()
    stores.require_shared(cluster, output, *roots)
    report = StageReport(stage, output)
    with manifest_of(output) as manifest, contextlib.closing(Tables(TABLES)) as tables:

        def asked(item: Item) -> dict[str, Any]:
            return {**options, **item.options, "name": item.name, "label": item.label, "split": item.split}

        def note(record: Record) -> None:
            if record.error is not None:
                report.failed.append(Failure(record.input, record.error, record.label, record.split))
                if strict:
                    raise FacerecError(f"{record.input}: {record.error}", "leave out --strict to go on past it")

        def task(item: Item, key: str) -> tuple[Item, Record]:
            return item, Record(key, "", asked(item), label=item.label, split=item.split, stage=stage)

        there = next((record.stage for record in manifest.records.values() if record.stage), stage)
        if there != stage:  # what that stage made would be taken for what is gone, and removed
            raise UsageError(f"{output} is the folder of `facerec {there}`", "choose another --output")
        _note_items(tables, items, manifest)
        tops = {manifest.key(root) for root in roots}
        if not keep:
            report.removed = _forget_gone(tables, manifest, tops)
        _note_owners(tables, manifest)
        number = tables.value("SELECT count(*) FROM items")
        if manifest.records:
            for n, item, key, _ in progress(_items(tables), number, f"{stage}: what is done"):
                if (record := manifest.records.get(key)) is None:
                    continue
                if _place_of(record) != _place(item.split, item.label, item.name):
                    manifest.forget([key])  # now: another item may be about to write where its outputs are
                elif not force:
                    with contextlib.suppress(OSError):
                        if manifest.is_done(key, item.path, asked(item)):
                            tables.execute("UPDATE items SET new = 0 WHERE number = ?", n)
                            report.skipped += record.error is None
                            note(record)
        # not recorded: whoever stands in its way may be gone next time, and it is no photo more
        for n, item, key, owner in _items(tables, "new AND owners.key != items.key"):
            error = str(InputError(f"{owner} already makes {item.label}/{item.name}", "rename one"))
            tables.execute("UPDATE items SET new = 0 WHERE number = ?", n)
            if key in manifest.records:
                manifest.forget([key])
            note(Record(key, "", asked(item), error=error, label=item.label, split=item.split))
        new = tables.value("SELECT count(*) FROM items WHERE new")
        tasks = (task(item, key) for _, item, key, _ in _items(tables))
        processes = jobs > 1 and new >= PROCESSES and not any(map(stores.in_memory, (output, *roots)))
        treated = spread(
            partial(treat, work, manifest.path.absolute(), cluster is not None),
            partial(
                chunked,
                tasks,
                new,
                most=together if cluster or processes else 1,
                weight=lambda t: _bytes(t[0].path),
            ),
            jobs=jobs,
            processes=processes,
            cluster=cluster,
        )
        try:
            with contextlib.closing(treated):
                for record in progress(_records(treated), new, stage):
                    manifest.write(record)
                    report.done += record.error is None
                    report.hosts.update([record.host] if record.host else [])
                    note(record)
        finally:
            if cluster or processes:  # one that died, or was stopped, left what it had not finished
                manifest.sweep()
        if keep:
            report.removed = _forget_gone(tables, manifest, tops, keep=True)
    report.failed.sort(key=lambda failure: natural_key(failure.source))
    report.seconds = time.perf_counter() - start
    return report


def _note_items(tables: Tables, items: Iterable[Item], manifest: Manifest) -> None:
    for item in items:
        key = packed(manifest.key(item.path))
        content = [str(item.path.absolute()), item.label, item.split, item.name, item.options]
        tables.execute(
            "INSERT INTO items (key, place, item) VALUES (?, ?, ?)",
            key,
            _place(item.split, item.label, item.name),
            json.dumps(content),
        )


def _items(tables: Tables, which: str = "new") -> Iterator[tuple[int, Item, str, str]]:
    """Number, item, its key and the key of whose place it is; of the new ones or of others, in order."""
    for number, content, key, owner in tables.rows(
        f"SELECT number, item, items.key, owners.key FROM items JOIN owners USING (place) WHERE {which} ORDER BY number"
    ):
        path, *rest = json.loads(content)
        yield number, Item(stores.folder(path), *rest), unpacked(key), unpacked(owner)


def _is_item(tables: Tables, key: str) -> bool:
    return tables.value("SELECT 1 FROM items WHERE key = ?", packed(key)) is not None


def _forget_gone(tables: Tables, manifest: Manifest, tops: set[str], keep: bool = False) -> int:
    """Removes inputs below what was asked for that are there no more; their number.

    To `keep` what was made of them, only those of which nothing is left, or that are called otherwise now.
    """
    gone, there = 0, None
    for key in manifest.records:
        if not any(_is_below(key, top) for top in tops) or _is_item(tables, key):
            continue
        record = manifest.records[key]
        if keep and (left := sum(manifest.has(output["path"]) for output in record.outputs)):
            there = there or {manifest.records[k].sha256 for k in manifest.records if _is_item(tables, k)}
            if record.sha256 not in there:
                log.warning("%s is gone; its %d pictures in %s stay", key, left, manifest.folder / record.label)
                continue
        manifest.forget([key])
        gone += 1
    return gone


def _is_below(key: str, top: str) -> bool:
    if top == ".":
        return not (key.startswith("../") or Path(key).is_absolute() or "://" in key)
    return key == top or key.startswith(f"{top}/")


def _note_owners(tables: Tables, manifest: Manifest) -> None:
    """Whose each place is: the first item's, or an earlier input's that is not asked for now but still there."""
    for key in manifest.records:
        if _is_item(tables, key) or not (record := manifest.records[key]).outputs:
            continue
        place = _place_of(record)
        if tables.value("SELECT 1 FROM items WHERE place = ?", place) is not None:
            if manifest.has_input(key):
                tables.execute("INSERT OR IGNORE INTO owners VALUES (?, ?)", place, packed(key))
            else:
                manifest.forget([key])
    tables.execute("INSERT OR IGNORE INTO owners SELECT place, key FROM items ORDER BY number")


def _place(*parts: str | None) -> str:
    return json.dumps(parts)


def _place_of(record: Record) -> str:
    return _place(record.split, record.label, record.options.get("name"))


def treat(work: Work, manifest: Path, elsewhere: bool, tasks: Sequence[tuple[Item, Record]]) -> list[Record]:
    """Treats items, wherever this runs, and completes their records.

    Args:
        work: makes the outputs of one item; of one in a store it gets a copy on disk.
        manifest: of the output folder.
        elsewhere: on another process than the one that keeps the manifest.
        tasks: items with what is known of them already.

    Raises:
        FacerecError: the outputs cannot be written, or this host does not see their folder.
    """
    if elsewhere and not stores.exists(manifest):
        raise FacerecError(
            f"{worker_name()} does not see {manifest.parent}", "put it where all hosts of the cluster see it"
        )
    with written_together():
        for item, record in tasks:
            _treat(work, elsewhere, item, record)
    return [record for _, record in tasks]


def _treat(work: Work, elsewhere: bool, item: Item, record: Record) -> None:
    record.host = worker_name() if elsewhere else ""
    try:
        with stores.fetched(item.path) as path:
            record.sha256 = sha256_of(path)
            record.outputs = work(replace(item, path=path))
    except OSError as error:
        record.error = f"cannot be read ({error.strerror or error})"
    except InputError as error:
        record.error = str(error)
        record.outputs = error.outputs


def _records(treated: Iterator[list[Record] | Crashed[tuple[Item, Record]]]) -> Iterator[Record]:
    for some in treated:
        if isinstance(some, Crashed):
            item, record = some.item
            with contextlib.suppress(OSError):
                record.sha256 = sha256_of(item.path)
            record.error = str(InputError("its worker died on it, each time", "leave it out, or try it with --force"))
            yield record
        else:
            yield from some


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
