"""Notices a rank that hangs, writes down where its threads stand, and ends the process.

A rank that waits for another one waits for ever, or until a collective's own limit, and says
nothing of why. A thread beside the training counts the time without a sign of life. It waits a
while between writing the stacks and ending the process, so that the other ranks, which hang by
then too, can write theirs; one that writes none is stopped itself, or gone.
"""

import faulthandler
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from toto.runtime.devices import Ranks

HUNG_CODE = 70
"""Exit status of a process that ended itself because it hung. EX_SOFTWARE of sysexits.h."""
STANDARD_ERROR = 2
LONGEST_TICK_S = 5.0
LONGEST_GRACE_S = 10.0


class Watchdog:
    """Watches this process while it is used in a `with`; with `after_s` 0 it does nothing.

    Time is counted in its own ticks: a process that was stopped as a whole, as Ctrl-Z does, has not
    hung when it goes on.

    Args:
        folder: where the stacks are written, as `rank-N.txt`.
        ranks: that train together.
        after_s: seconds without a sign of life that are too many. Longer than anything that gives
            none takes: compiling, or a validation.
    """

    def __init__(self, folder: Path, ranks: Ranks, after_s: float) -> None:
        self._folder, self._ranks, self._after_s = folder, ranks, after_s
        self._tick_s = min(after_s / 10, LONGEST_TICK_S)
        self._grace_s = min(2 * after_s, LONGEST_GRACE_S)
        self._beats, self._step, self._doing = 0, 0, "beginning"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, step: int, doing: str = "training") -> None:
        """Give a sign of life.

        Args:
            step: taken last.
            doing: what comes next, for the message.
        """
        self._step, self._doing = step, doing
        self._beats += 1

    def __enter__(self) -> Self:
        if self._after_s:
            self._put_off()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._after_s:
            self._thread.join()

    def _watch(self) -> None:
        seen, silent_s = self._beats, 0.0
        try:
            while not self._over.wait(self._tick_s):
                self._put_off()
                silent_s = silent_s + self._tick_s if self._beats == seen else 0.0
                seen = self._beats
                if silent_s >= self._after_s:
                    self._end(silent_s)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _put_off(self) -> None:
        """Put off the other end, which needs no Python: a thread may keep its lock for itself."""
        after_s = 2 * self._after_s + self._grace_s
        faulthandler.dump_traceback_later(after_s, exit=True, file=STANDARD_ERROR)

    def _end(self, silent_s: float) -> None:
        began_s = time.time() - self._grace_s
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._file(self._ranks.rank)
        what = f"rank {self._ranks.rank} of {self._ranks.world} hangs"
        where = f"no sign of life for {silent_s:.0f} s after step {self._step}, {self._doing}"
        with file.open("w") as out:
            out.write(f"{what}: {where}\n\n")
            out.flush()
            faulthandler.dump_traceback(out, all_threads=True)
        if self._ranks.world > 1:
            time.sleep(self._grace_s)
        silent = [
            str(rank)
            for rank in range(self._ranks.world)
            if not self._file(rank).exists() or self._file(rank).stat().st_mtime < began_s
        ]
        others = f"; no stacks from rank {', '.join(silent)}: stopped, or gone" if silent else ""
        line = f"toto: {what}: {where}; its stacks are in {file}{others}\n"
        os.write(STANDARD_ERROR, line.encode())
        os._exit(HUNG_CODE)

    def _file(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.txt"
