"""`toto report`: one page of everything below a folder."""

from dataclasses import dataclass
from pathlib import Path

from toto.report.collect import collect
from toto.report.page import write_report


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteReport:
    """Collect the stages below a folder into one self-contained HTML page."""

    def run(self, out: Path) -> Path:
        """Write `report.html` into the folder that holds the stages.

        Raises:
            ValueError: if no stage is there, or a file of one is damaged.
        """
        return write_report(collect(out), out / "report.html")
