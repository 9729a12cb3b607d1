"""`toto verify`: compare token shards with what was written, file by file and clip by clip."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toto.data.records import ClipRecord, Description
from toto.data.remote import is_address, join, names_below
from toto.data.shard_files import FACTS
from toto.data.token_set import INDEX, TokenSet
from toto.jobs.encode_again import EncodeAgain
from toto.jobs.progress import Bar, bar
from toto.types import TokenGrid

SHOWN = 10
"""Clips of a kind that are named; the counts are of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One thing that is not what was written."""

    set: str
    shard: str | None
    """None where the index is damaged, or a shard is missing or one too many."""
    reason: str
    clips: tuple[str, ...] | None
    """Names of the clips that it hits; None where what says where they lie is damaged too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was found."""

    sets: dict[str, TokenSet]
    """Those whose index is whole, by name."""
    bytes: int
    """Read and found whole."""
    seconds: float
    damage: tuple[Damage, ...]
    again: dict[str, Any] | None = None
    """What `compare_codes` gave."""
    not_again: str = ""
    """Why no clip was encoded again."""
    most_different: float = 0.0
    """Share of codes that may come out otherwise."""

    @property
    def good(self) -> bool:
        """Whether nothing is damaged, and the codes that came out again are the same."""
        rate = (self.again or {}).get("mismatch_rate") or 0.0
        return not self.damage and rate <= self.most_different

    @property
    def certificate(self) -> str:
        """sha256 of all indices: equal for equal sets of the same names."""
        listed = "".join(f"{name} {tokens.sha256}\n" for name, tokens in self.sets.items())
        return hashlib.sha256(listed.encode()).hexdigest()

    def lines(self) -> Iterator[str]:
        """Say it, a line a set and a line for each damage."""
        for name, tokens in self.sets.items():
            yield (
                f"{name or tokens.path}: {tokens.shards} shards, {len(tokens.lengths):,} clips, "
                f"{tokens.lengths.sum():,} frames, {tokens.description.tokenizer}"
            )
        for damage in self.damage:
            yield f"DAMAGED {damage.set}: {damage.reason}{_named(damage.clips)}"
        found = f"{len(self.damage)} damaged" if self.damage else "no damage"
        speed = self.bytes / 1e9 / self.seconds
        yield f"{found}; {self.bytes / 1e9:.2f} GB verified at {speed:.2f} GB/s"
        yield from self._encoded_again()
        if not self.damage:
            yield f"certificate {self.certificate}"

    def _encoded_again(self) -> Iterator[str]:
        if self.again is None:
            yield f"no clip was encoded again: {self.not_again}"
            return
        again = self.again
        for lost in again["lost"][:SHOWN]:
            yield f"NOT ENCODED AGAIN {lost['clip']}: {lost['reason']}"
        for one in again["differing"][:SHOWN]:
            yield f"DIFFERENT {one['clip']}: {one['codes']:,} codes came out otherwise"
        rate = again["mismatch_rate"]
        if rate is None:
            yield f"none of {len(again['lost'])} clips could be encoded again"
            return
        yield (
            f"{again['clips']} clips encoded again: {100 * rate:.4f} % of {again['codes']:,} codes "
            f"differ; {len(again['lost'])} clips could not be read again"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verify:
    """Compare all token sets below a folder or an address with what was written."""

    shards: str
    """Folder that `toto tokenize` wrote, or the address it was copied to; or one token set."""
    sample: int = 20
    """Clips, drawn at random, that are decoded and encoded again; 0 for none."""
    data: tuple[Path, ...] = ()
    """Where their data folders are now; empty takes those that `toto tokenize` was given."""
    most_different: float = 0.0
    """Share of codes that may come out otherwise: on another kind of device near ties fall
    otherwise."""
    seed: int = 0
    """Of the sample."""

    def __post_init__(self) -> None:
        if self.sample < 0 or not 0 <= self.most_different <= 1:
            raise ValueError(
                f"sample {self.sample} must be at least 0, most_different {self.most_different} "
                "in [0, 1]"
            )

    def run(self) -> Verified:
        """Hash every file; say what is damaged, and which clips that hits.

        Raises:
            ValueError: if there is no token set.
        """
        names = set_names(self.shards)
        opened: dict[str, TokenSet] = {}
        damage: list[Damage] = []
        for name in names:
            try:
                opened[name] = open_all(join(self.shards, name))
            except ValueError as error:
                damage.append(Damage(set=name, shard=None, reason=str(error), clips=None))
        start, total = time.perf_counter(), 0
        with bar("verify", sum(tokens.shards for tokens in opened.values())) as progress:
            for name, tokens in opened.items():
                for count, found in _shards(name, tokens):
                    total += count
                    damage += found
                    _note(progress, total, time.perf_counter() - start)
        seconds = time.perf_counter() - start
        again, not_again = self._encode_again(opened)
        return Verified(
            sets=opened,
            bytes=total,
            seconds=seconds,
            damage=tuple(damage),
            again=again,
            not_again=not_again,
            most_different=self.most_different,
        )

    def _encode_again(self, opened: dict[str, TokenSet]) -> tuple[dict[str, Any] | None, str]:
        """Compare a sample of codes; or say why that cannot be done."""
        if not self.sample or not opened:
            return None, "none was asked for" if opened else "no set is whole"
        if is_address(self.shards):
            return None, "the shards are at an address; verify the folder that they were made in"
        try:
            with EncodeAgain(Path(self.shards), self.data) as encode:
                sets = list(opened.values())
                return compare_codes(sets, encode, sample=self.sample, seed=self.seed), ""
        except ValueError as error:
            return None, str(error)


def set_names(shards: str) -> list[str]:
    """List the token sets below a folder or an address, also those that have lost their index.

    Raises:
        ValueError: if there is none.
    """
    names = set(names_below(shards, INDEX))
    names |= {name.rpartition("/")[0] for name in names_below(shards, FACTS)}
    if not names:
        raise ValueError(f"{shards} has no token sets; `toto tokenize` makes them")
    return sorted(names)


def open_all(address: str) -> TokenSet:
    """Open a token set, with its frames if it keeps them.

    Raises:
        ValueError: if its index is damaged.
    """
    tokens = TokenSet(address)
    return TokenSet(address, frames=True) if tokens.keeps_frames else tokens


def _shards(name: str, tokens: TokenSet) -> Iterator[tuple[int, list[Damage]]]:
    """Verify the shards of a set one by one: bytes read, and what was found damaged."""
    for shard in range(tokens.shards):
        try:
            yield tokens.verify(shard), []
        except ValueError as error:
            clips = None
            # If what says where the clips lie is damaged too, the reason names it.
            with suppress(ValueError):
                clips = tuple(record.name for record in tokens.damaged_clips(shard).values())
            shard_name = tokens.name_of(shard)
            yield 0, [Damage(set=name, shard=shard_name, reason=str(error), clips=clips)]


def _named(clips: tuple[str, ...] | None, most: int = 10) -> str:
    if not clips:
        return ""
    more = f" and {len(clips) - most:,} more" if len(clips) > most else ""
    return f"; clips hit: {', '.join(clips[:most])}{more}"


def _note(progress: Bar, count: int, seconds: float) -> None:
    progress.advance(note=f"{count / 1e9:.1f} GB at {count / 1e9 / seconds:.2f} GB/s")


ReEncode = Callable[[ClipRecord, Description], TokenGrid]
"""Reads a clip's file again, as its record says, and tokenises it as the description says. Raises
ValueError if the file is no longer what was tokenised."""


def compare_codes(
    sets: Sequence[TokenSet], re_encode: ReEncode, *, sample: int, seed: int
) -> dict[str, Any]:
    """Tokenise a random sample of clips again and count the codes that came out otherwise.

    Args:
        sets: of which the sample is drawn, every clip with the same chance.
        re_encode: how.
        sample: clips; all of them if there are fewer.
        seed: of the draw.

    Returns:
        Clips and codes that were compared, the share that differs, in [0, 1], the clips it was
        found in, and those that could not be tokenised again, with the reason.
    """
    ends = np.cumsum([len(tokens.lengths) for tokens in sets])
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.choice(ends[-1], size=min(sample, ends[-1]), replace=False))
    codes = different = compared = 0
    differing: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    with bar("encode again", len(chosen)) as progress:
        for number in progress.over(chosen.tolist()):
            which = int(np.searchsorted(ends, number, side="right"))
            tokens = sets[which]
            clip = number - (int(ends[which - 1]) if which else 0)
            record = tokens.clips[clip]
            stored = tokens.window(clip, 0, int(tokens.lengths[clip]))
            try:
                again = re_encode(record, tokens.description).ids
                if again.shape != stored.shape:
                    raise ValueError(f"{tuple(again.shape)} codes, stored {tuple(stored.shape)}")
            except ValueError as error:
                lost.append({"set": tokens.path, "clip": record.name, "reason": str(error)})
                continue
            count = int((again != stored).sum())
            compared, codes, different = compared + 1, codes + stored.numel(), different + count
            if count:
                differing.append({"set": tokens.path, "clip": record.name, "codes": count})
    return {
        "clips": compared,
        "codes": codes,
        "mismatch_rate": different / codes if codes else None,
        "differing": differing,
        "lost": lost,
    }
