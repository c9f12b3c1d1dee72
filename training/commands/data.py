"""Commands for tables and rows: `init`, `ingest`, `forget` and `synthesize`."""

import sys
from argparse import Namespace

from config.contract import load_contract
from config.runtime.settings import read_settings
from training.data.batches import BatchRejected, forget_rejected, ingest, intake_of
from training.data.proposal import init_table
from training.data.rows import counted, write_requests
from training.data.storage import Folder
from training.data.store import Store
from training.data.synthetic import synthesize
from training.settings import Settings, absolute


def run_init(options: Namespace) -> None:
    """Write a contract and a source description; print what was found and what comes next."""
    written = init_table(
        options.tables, options.target, options.positive, options.output, options.names
    )
    print(*written.lines, sep="\n")
    print(f"wrote {written.contract} and {written.source}; edit them, then")
    print(f"  CONTRACT={written.contract} {sys.executable} -m training train")
    print(f"  make demo CONTRACT={written.contract}")


def run_ingest(options: Namespace) -> None:
    """Ingest a batch and print the numbers of its rows; or list the batches, or remove one."""
    settings, store = read_settings(Settings), open_store()
    if options.list:
        listed = [batch.described() for batch in store.batches()]
        print(*(listed or [f"{settings.store_address}: no batches"]), sep="\n")
        return
    if options.undo:
        undo_ingest(options.undo, store, settings.feed_address)
        return
    intake = intake_of(settings, options.max_rejected, options.allow_one_class)
    try:
        done = ingest(options.file, options.period, intake)
    except BatchRejected as err:
        sys.exit("\n  ".join([str(err), *err.examples]))
    batch = done.batch
    what = f"{counted(batch.rows)} of {batch.period}, sha256 {batch.sha256[:12]}"
    if not done.is_new:
        print(f"already ingested at {batch.ingested_at}: {what}; nothing was added")
        return
    print(f"ingested {options.file} into {settings.store_address}: {what}")
    print(*[f"{note}\n" for note in done.notes], sep="", end="")
    if batch.duplicates:
        print(f"kept {counted(batch.duplicates)} that equal an earlier row of {batch.period}")
    if done.known:
        print(f"skipped {counted(done.known, 'prediction')} that the store has")
    if done.quarantine:
        print(f"quarantined {counted(batch.rejected, 'invalid row')}: {done.quarantine}")
        print(*[f"  {fault.example()}" for fault in done.faults], sep="\n")
    for name, values in done.unseen.items():
        count = done.read_as_missing[name]
        print(f"{name}: {counted(count, 'value')} not in the contract, read as missing:")
        print(*[f"  {value!r}: {counted(rows)}" for value, rows in values.items()], sep="\n")


def undo_ingest(name: str, store: Store, feed: str) -> None:
    """Remove a batch from the store; print what was removed and what is left to do."""
    batch = store.named(name)
    store.remove(batch)
    print(f"removed from {store.folder.address}:\n{batch.described()}")
    print(
        "The next training does without these rows. Versions that were trained with them stay: see"
        f" sha256 {batch.sha256[:12]} in their data/lineage.json. To replace such a version, run"
        " `python -m training rollback`, or `python -m training train --force`."
    )
    if feed and absolute(batch.source).startswith(f"{feed.rstrip('/')}/"):
        print(f"{batch.source} is in FEED: remove it there, or Prefect ingests it again.")


def run_forget(options: Namespace) -> None:
    """Remove a prediction's rows from the training store and the quarantine."""
    folder, store = read_settings(Settings).batch_quarantine, open_store()
    print(f"training store: {counted(store.forget(options.prediction_id))} removed")
    if store.folder.is_bucket:
        print(
            f"{store.folder.address}: if the bucket has soft delete, it keeps removed objects until"
            " their retention ends"
        )
    print(f"quarantine: {counted(forget_rejected(folder, options.prediction_id))} removed")


def open_store() -> Store:
    """Return the training store of the settings."""
    return Store(Folder(read_settings(Settings).store_address))


def run_synthesize(options: Namespace) -> None:
    """Write synthetic rows, as requests or as a table."""
    contract = load_contract()
    rows = synthesize(contract, rows_train=options.rows, rows_test=0, seed=options.seed).train
    options.out.parent.mkdir(parents=True, exist_ok=True)
    labels = [contract.target.labels[index] for index in rows[contract.target.name]]
    table = rows[list(contract.input_names)].assign(**{contract.target.name: labels})
    match options.out.suffix:
        case ".csv":
            table.to_csv(options.out, index=False)
        case ".parquet":
            table.to_parquet(options.out, index=False)
        case _:
            write_requests(rows, contract, options.out)
    print(f"{options.rows} synthetic rows: {options.out}")
