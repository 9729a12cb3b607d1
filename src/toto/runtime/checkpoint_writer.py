"""Checkpoints of many ranks, written while training goes on.

`Writer.save` copies the tensors to the CPU, which is all that training waits for; a thread does the
rest: files, hashes, fsync. Ranks agree by files and not by messages, since the thread must not
speak while training does: each rank leaves a sealed receipt with the hashes of its files once
they are on disk, and the first rank commits when it has them all. That takes a disk that all ranks
share. A receipt of an earlier start is never taken for one of this start: the temporary folder's
name has a number that the first rank drew and told the others.
"""

import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from toto.runtime import checkpoint_blocks, durable
from toto.runtime.checkpoint_blocks import Block
from toto.runtime.checkpoint_commit import (
    Retention,
    commit,
    require_savable,
    temporary_folder,
    write_part,
)
from toto.runtime.checkpoint_record import Written, sealed, unsealed
from toto.runtime.devices import Ranks

RECEIPT_TIMEOUT_S = 1800.0
_LOOK_AGAIN_S = 0.01


class Writer:
    """Writes a run's checkpoints, one at a time; every rank of the run has one and uses it alike.

    Attributes:
        error: what the save in the background failed with; None if it did not.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config_digest: str,
        retention: Retention,
        ranks: Ranks,
        launch: int,
        receipt_timeout_s: float = RECEIPT_TIMEOUT_S,
    ) -> None:
        """Make a writer that has nothing to do yet.

        Args:
            folder: where the checkpoints of the run are; made if need be, on a disk that all ranks
                share.
            config_digest: of the run's config.
            retention: which old ones stay.
            ranks: of the run.
            launch: a number of this start of the run, the same on all ranks.
            receipt_timeout_s: how long the first rank waits for the others' files.
        """
        self.folder, self.config_digest, self.retention = folder, config_digest, retention
        self.ranks, self.launch, self.receipt_timeout_s = ranks, launch, receipt_timeout_s
        self.error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._abandoned = threading.Event()
        self._saves = 0

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor | Block]]) -> None:
        """Copy the tensors and begin to write them; a save that still runs is waited for first.

        Every rank calls this at the same step. The step's checkpoint stands once `wait` returns on
        the first rank.

        Raises:
            ValueError: if an argument makes no sense.
            DiskFullError: if the save before did not fit.
        """
        require_savable(step, tensors)
        durable.crash_point("checkpoint.before_wait")
        self.wait()
        durable.crash_point("checkpoint.before_copy")
        taken = checkpoint_blocks.take(tensors, rank=self.ranks.rank)
        durable.crash_point("checkpoint.after_copy")
        durable.make_folder(self.folder)
        token = f"{self.launch:x}-{self._saves}"
        self._saves += 1
        temporary = temporary_folder(self.folder, step, token)
        self._thread = threading.Thread(
            target=self._run, args=(temporary, step, taken), name=f"checkpoint of step {step}"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until this rank has nothing more to write.

        Raises:
            DiskFullError: if it did not fit.
            ValueError: if the step has a checkpoint with other contents.
            TimeoutError: if another rank's files did not come.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """End without waiting for other ranks, which may be gone; what stands, stands."""
        self._abandoned.set()
        with suppress(Exception):
            self.wait()

    def _run(self, temporary: Path, step: int, taken: dict[str, dict[str, Tensor | Block]]) -> None:
        durable.crash_point("checkpoint.thread_begins")
        try:
            self._write(temporary, step, taken)
        except Exception as error:  # noqa: BLE001 - it is raised in the main thread, by `wait`
            self.error = error
            if self.ranks.rank > 0:
                # Else the first rank would wait for the receipt in vain.
                with suppress(OSError):
                    self._leave_receipt(temporary, {"error": str(error)})
            elif self.ranks.world == 1:
                shutil.rmtree(temporary, ignore_errors=True)

    def _write(
        self, temporary: Path, step: int, taken: dict[str, dict[str, Tensor | Block]]
    ) -> None:
        written = write_part(temporary, taken, rank=self.ranks.rank)
        # Not needed any more, and the next save may begin to copy as soon as this ends.
        taken.clear()
        durable.crash_point("checkpoint.before_receipt")
        if self.ranks.rank > 0:
            files = {file: [each.sha256, each.bytes] for file, each in written.items()}
            self._leave_receipt(temporary, {"files": files})
            durable.crash_point("checkpoint.after_receipt")
            return
        deadline = time.monotonic() + self.receipt_timeout_s
        for rank in range(1, self.ranks.world):
            written |= self._collect_receipt(temporary, rank, deadline)
            durable.crash_point("checkpoint.mid_receipts")
        commit(
            temporary,
            step,
            written,
            config_digest=self.config_digest,
            retention=self.retention,
        )

    def _leave_receipt(self, temporary: Path, content: dict[str, object]) -> None:
        record = {"rank": self.ranks.rank, **content}
        file = _receipt(temporary, self.ranks.rank)
        unfinished = file.with_suffix(".part")
        durable.write_new(unfinished, sealed(record))
        durable.crash_point("checkpoint.mid_receipt")
        # The last that this rank does here: once it is seen, the folder may get another name. It
        # need not outlive a power cut, which ends this start of the run.
        unfinished.rename(file)

    def _collect_receipt(self, temporary: Path, rank: int, deadline: float) -> dict[str, Written]:
        """Take the receipt of another rank out of the folder, once it is there."""
        file = _receipt(temporary, rank)
        while not file.exists():
            if self._abandoned.is_set() or not threading.main_thread().is_alive():
                raise TimeoutError(f"{temporary}: given up before rank {rank} was done")
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{temporary}: rank {rank} has not written its part in "
                    f"{self.receipt_timeout_s:.0f} s; put the run on a disk that all ranks share"
                )
            time.sleep(_LOOK_AGAIN_S)
        record = unsealed(file.read_bytes())
        if record is None:
            raise OSError(f"{file} is not what rank {rank} wrote; check that disk")
        if "error" in record:
            raise OSError(f"rank {rank} could not save: {record['error']}")
        file.unlink()
        return {name: Written(sha256, size) for name, (sha256, size) in record["files"].items()}


def _receipt(temporary: Path, rank: int) -> Path:
    return temporary / f"receipt-{rank:05d}.json"
