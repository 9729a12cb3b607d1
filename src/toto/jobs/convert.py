"""`toto tokenizer convert` and `toto tokenizer fetch`: published weights become a tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from toto.jobs.progress import bar, console
from toto.tokenizers.convert import convert
from toto.tokenizers.fetch import PUBLISHED, fetch

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Convert:
    """Convert weights that lie on this machine; nothing in them is run."""

    files: Positional[tuple[Path, ...]]
    """The weights, such as encoder.pkl decoder.pkl, in any order."""
    kind: str | None = None
    """What they are; told from their tensors when left out."""
    sha256: tuple[str, ...] = ()
    """What the files must hash to, in their order; checked before anything is read."""

    def run(self, out: Path) -> dict[str, Any]:
        """Write the tokenizer's folder, and say what was recognised.

        Raises:
            FileNotFoundError: if a file is not there.
            ValueError: if a file is not weights of a known kind, or `out` exists.
        """
        result = convert(self.files, out, kind=self.kind, sha256=self.sha256)
        console.print(
            f"{result['kind']}: {result['parameters']:,} parameters, tokenizer {result['name']}"
        )
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """Fetch published weights into the cache, and convert them."""

    name: Positional[str]
    """Which: openai-dvae, flava-codebook, vqgan-f16-1024 or vqgan-f16-16384."""
    cache: Path | None = None
    """Where fetched files stay; $TOTO_CACHE or ~/.cache/toto when left out."""

    def __post_init__(self) -> None:
        if self.name not in PUBLISHED:
            raise ValueError(
                f"no published weights {self.name!r}; known are: {', '.join(PUBLISHED)}"
            )

    def run(self, out: Path) -> dict[str, Any]:
        """Fetch what is not in the cache, then write the tokenizer's folder.

        Raises:
            OSError: if a file cannot be had; the message says how to do it by hand.
            ValueError: if a file is not the one it must be, or `out` exists.
        """
        if out.exists():
            raise ValueError(f"{out} exists already; remove it or choose another name")
        published = PUBLISHED[self.name]
        with bar("fetch, MB", sum(file.megabytes for file in published.files)) as progress:
            received = 0

            def advance(count: int) -> None:
                nonlocal received
                before, received = received // MEGABYTE, received + count
                progress.advance(received // MEGABYTE - before)

            files = fetch(self.name, self.cache, advance=advance)
        return Convert(files=files, kind=published.kind).run(out)
