"""How much one dataset, one transfer and all of them together may take.

Rule of this file: a ceiling has the name of the option of the command line that sets it.
"""

from __future__ import annotations

from ..values import Value

_MIB = 1 << 20

MAX_CHUNKS = 1_000_000
MAX_BATCHES = 1_000_000
MAX_ATOMS = 100_000
MAX_AHEAD = 1024  # how far a chunk may be ahead of the first one that is missing


class Ceilings(Value):
    """``dataset_sent`` and ``dataset_size``: bytes of a dataset as sent and inflated. ``dataset_rows``: its rows.
    ``dataset_batch``: bytes of a batch, and so of the largest row. ``dataset_store``: bytes of all datasets that are
    kept, 0 for no limit. ``max_transfers``: transfers under way in one process. ``transfer_idle``: milliseconds after
    which a transfer that nothing was heard of is dropped.
    """

    __slots__ = (
        "dataset_sent",
        "dataset_size",
        "dataset_rows",
        "dataset_batch",
        "dataset_store",
        "max_transfers",
        "transfer_idle",
    )
    dataset_sent: int
    dataset_size: int
    dataset_rows: int
    dataset_batch: int
    dataset_store: int
    max_transfers: int
    transfer_idle: int

    def __init__(
        self,
        dataset_sent: int = 8192 * _MIB,
        dataset_size: int = 8192 * _MIB,
        dataset_rows: int = 100_000_000,
        dataset_batch: int = 16 * _MIB,
        dataset_store: int = 16384 * _MIB,
        max_transfers: int = 16,
        transfer_idle: int = 300_000,
    ) -> None:
        self._set(
            dataset_sent=dataset_sent,
            dataset_size=dataset_size,
            dataset_rows=dataset_rows,
            dataset_batch=dataset_batch,
            dataset_store=dataset_store,
            max_transfers=max_transfers,
            transfer_idle=transfer_idle,
        )


DEFAULT = Ceilings()
