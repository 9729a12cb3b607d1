"""Small copies of every data set in its published format, and tar archives of any kind."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from toto.video.datasets import DATASETS
from toto.video.entry import Dataset

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)
"""What the first bytes of an image look like; nobody can decode it."""
MP4 = b"\0\0\0\x18ftypisom" + bytes(60)
K400 = "label,youtube_id,time_start,time_end,split,is_cc\n"


def put(root: Path, name: str, data: bytes | str = b"") -> Path:
    """Write a file below a folder."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """Write an archive of regular files, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def folder(root: Path, video: bytes, image: bytes) -> None:
    put(root, "walk/a.mp4", video)
    put(root, "b.jpg", image)


def files(root: Path, video: bytes, image: bytes) -> None:
    folder(root, video, image)
    put(root, "files.csv", "path,label,start_s,end_s,split\nwalk/a.mp4,walk,0,0.4,val\nb.jpg,,,,\n")


def webdataset(root: Path, video: bytes, image: bytes) -> None:
    members = [("0.jpg", image), ("0.cls", b"7"), ("1.mp4", video), ("1.json", b'{"label": "x"}')]
    tar(root / "train-000.tar", members)


def imagenet(root: Path, video: bytes, image: bytes) -> None:
    put(root, "train/n01440764/n01440764_10026.JPEG", image)
    put(root, "val/n01440764/ILSVRC2012_val_00000293.JPEG", image)


def kinetics(root: Path, video: bytes, image: bytes) -> None:
    lines = "air drumming,0wR5jVB-WPk,417,427,train,0\nabseiling,-3B32lodo2M,59,69,train,0\n"
    put(root, "annotations/train.csv", K400 + lines)
    put(root, "train/air_drumming/0wR5jVB-WPk_000417_000427.mp4", video)


def ego4d(root: Path, video: bytes, image: bytes) -> None:
    videos = [{"video_uid": "353ae622", "duration_sec": 0.8, "split_em": None}]
    clips = [
        {
            "clip_uid": "51e04dae",
            "video_uid": "353ae622",
            "video_start_sec": 0.2,
            "video_end_sec": 0.6,
        }
    ]
    put(root, "ego4d.json", json.dumps({"videos": videos, "clips": clips}))
    put(root, "v2/full_scale/353ae622.mp4", video)
    put(root, "v2/clips/51e04dae.mp4", video)


def howto100m(root: Path, video: bytes, image: bytes) -> None:
    header = "video_id,category_1,category_2,rank,task_id\n"
    lines = "nVbIUDjzWY4,Cars & Other Vehicles,Motorcycles,27,52907\n-T9ioSkC1yY,Health,,2,1\n"
    put(root, "HowTo100M_v1.csv", header + lines)
    captions = {"nVbIUDjzWY4": {"text": ["a", "b"], "start": [0.0, 0.3], "end": [0.4, 0.6]}}
    put(root, "caption.json", json.dumps(captions))
    put(root, "videos/nVbIUDjzWY4.webm", video)


def davis(root: Path, video: bytes, image: bytes) -> None:
    for number in range(3):
        put(root, f"JPEGImages/480p/bear/{number:05d}.jpg", image)
    put(root, "ImageSets/2017/train.txt", "bear\n")
    put(root, "ImageSets/2017/val.txt", "camel\n")


def cater(root: Path, video: bytes, image: bytes) -> None:
    put(root, "videos/CATER_new_000000.avi", video)
    put(root, "lists/localize/train.txt", "CATER_new_000000.avi 14\n")
    put(root, "lists/localize/val.txt", "CATER_new_000001.avi 3\n")


TREES: dict[str, Callable[[Path, bytes, bytes], None]] = {
    "folder": folder,
    "files": files,
    "webdataset": webdataset,
    "imagenet": imagenet,
    "kinetics": kinetics,
    "ego4d": ego4d,
    "howto100m": howto100m,
    "davis": davis,
    "cater": cater,
}
"""All but `sample_clips`, which has a folder of its own."""


def made(reader: str, root: Path, video: bytes = MP4, image: bytes = JPEG) -> Dataset:
    """Make a data set of this reader's format below a folder, and open it."""
    if reader not in TREES:
        return DATASETS[reader]()
    TREES[reader](root, video, image)
    return DATASETS[reader](root=root)  # pyright: ignore
