"""Ego4D: whole videos, its exported clips, or clips cut out of the videos, from `ego4d.json`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toto.video.datasets.listing import read_json, require_name
from toto.video.entry import Entry

LAYOUT = (
    "expected ROOT/ego4d.json and ROOT/full_scale/<video_uid>.mp4, or video_540ss or clips in its "
    "place, in a folder of their version if need be: ROOT/v2/full_scale (docs/datasets.md)"
)
VIDEO_FOLDERS = ("full_scale", "video_540ss")
BENCHMARKS = ("em", "av", "fho")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4D:
    """The videos or clips of `ego4d.json`, on disk or not.

    The data set has no one split, but one for each benchmark; a video is of the most careful of
    them: test if any benchmark tests on it, then val, then multi (Ego4D's word for a video whose
    clips are of different splits), else train, which most videos are.
    """

    root: Path
    name: str = "ego4d"
    """What manifests and shards call these clips."""
    unit: Literal["videos", "clips", "cuts"] = "videos"
    """`videos`: whole ones. `clips`: the files of the folder `clips`. `cuts`: the same clips, cut
    out of the whole videos by their times."""
    folder: str = ""
    """Folder of the whole videos; empty takes full_scale or video_540ss, whichever is there."""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        if self.folder:
            require_name(self.folder, "folder")

    def entries(self) -> Iterator[Entry]:
        """Yield the videos in the order of `ego4d.json`, or their clips video by video.

        Raises:
            ValueError: if the layout is not the one Ego4D's own tool downloads.
        """
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; {LAYOUT}")
        source = self._only(["ego4d.json"])
        wanted = ("clips",) if self.unit == "clips" else (self.folder,) if self.folder else None
        folder = self._only(wanted or VIDEO_FOLDERS).relative_to(self.root).as_posix()
        lists = read_json(source)
        videos = _objects(source, lists, "videos")
        seen: set[str] = set()
        splits = {_uid(source, video, "video_uid"): _split(source, video) for video in videos}
        if self.unit == "videos":
            for uid, split in splits.items():
                yield Entry(path=f"{folder}/{uid}.mp4", clip=uid, split=split)
            return
        clips: dict[str, list[Mapping[str, Any]]] = {uid: [] for uid in splits}
        for clip in _clips(source, lists, videos):
            video = _uid(source, clip, "video_uid")
            if video not in clips:
                raise ValueError(f"{source}: a clip is of video {video}, which is not listed")
            clips[video].append(clip)
        if not any(clips.values()):
            raise ValueError(f"{source} lists no clip; whole videos are --dataset.unit videos")
        for video, of_video in clips.items():
            for clip in of_video:
                uid = _uid(source, clip, "clip_uid")
                # Benchmarks that annotate one clip each list it.
                if uid in seen:
                    continue
                seen.add(uid)
                start_s, end_s = _times(source, uid, clip)
                cut = self.unit == "cuts"
                yield Entry(
                    path=f"{folder}/{video if cut else uid}.mp4",
                    clip=uid,
                    start_s=start_s if cut else 0.0,
                    end_s=end_s if cut else None,
                    split=splits[video],
                )

    def _only(self, names: tuple[str, ...] | list[str]) -> Path:
        """The first of the names that is in `root`, or else in one folder of a version."""
        for name in names:
            if (self.root / name).exists():
                return self.root / name
        for name in names:
            found = sorted(self.root.glob(f"v*/{name}"))
            if len(found) > 1:
                versions = " and ".join(str(path.relative_to(self.root)) for path in found)
                raise ValueError(f"{self.root} has {versions}; point to one, {found[-1].parent}")
            if found:
                return found[0]
        raise ValueError(f"{self.root} has no {' or '.join(names)}; {LAYOUT}")


def _objects(source: Path, holder: Any, key: str) -> list[Mapping[str, Any]]:
    found = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError(f"{source} has no list {key!r} of objects; it is not Ego4D's")
    return found


def _clips(
    source: Path, lists: Mapping[str, Any], videos: list[Mapping[str, Any]]
) -> Iterator[Mapping[str, Any]]:
    """All clips: listed on their own, or within their videos as annotation files have them."""
    if "clips" in lists:
        yield from _objects(source, lists, "clips")
    for video in videos:
        if "clips" in video:
            for clip in _objects(source, video, "clips"):
                yield {"video_uid": video["video_uid"], **clip}


def _uid(source: Path, item: Mapping[str, Any], key: str) -> str:
    try:
        return require_name(str(item[key]), key)
    except KeyError as error:
        raise ValueError(f"{source} has an item without {key}; it is not Ego4D's") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _split(source: Path, video: Mapping[str, Any]) -> str:
    found = {str(video.get(f"split_{benchmark}") or "train").lower() for benchmark in BENCHMARKS}
    if unknown := found - {"train", "val", "test", "multi"}:
        raise ValueError(f"{source}: video {video.get('video_uid')} is of split {min(unknown)!r}")
    return next(split for split in ("test", "val", "multi", "train") if split in found)


def _times(source: Path, uid: str, clip: Mapping[str, Any]) -> tuple[float, float]:
    start_s, end_s = clip.get("video_start_sec"), clip.get("video_end_sec")
    numbers = all(isinstance(time_s, int | float) for time_s in (start_s, end_s))
    if not numbers or not 0 <= start_s < end_s < float("inf"):  # pyright: ignore
        raise ValueError(f"{source}: clip {uid} is from {start_s} s to {end_s} s")
    return float(start_s), float(end_s)  # pyright: ignore
