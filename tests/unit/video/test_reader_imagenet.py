"""ImageNet in all its layouts, and DAVIS: folders of images whose places say what they are."""

from pathlib import Path

import numpy as np
import pytest
from made_datasets import JPEG, put, tar
from scipy.io import savemat

from toto.video.datasets.davis import Davis
from toto.video.datasets.imagenet import ImageNet
from toto.video.decode import Decoder
from toto.video.ingest import rows_of_file

Facts = list[tuple[str, str, str | None, str]]


def facts(dataset: ImageNet | Davis) -> Facts:
    entries = list(dataset.entries())
    kind = "image" if isinstance(dataset, ImageNet) else "frames"
    assert {entry.kind for entry in entries} == {kind}
    return [(entry.path, entry.clip, entry.label, entry.split) for entry in entries]


def test_splits_and_classes(tmp_path: Path) -> None:
    for name in (
        "train/n01443537/n01443537_2.JPEG",
        "train/n01440764/n01440764_10026.JPEG",
        "train/n01440764/.DS_Store",
        "val/n01440764/ILSVRC2012_val_00000293.JPEG",
        "test/ILSVRC2012_test_00000001.JPEG",
        "classes.tsv",
    ):
        put(tmp_path, name)
    train: Facts = [
        ("train/n01440764/n01440764_10026.JPEG", "n01440764_10026", "n01440764", "train"),
        ("train/n01443537/n01443537_2.JPEG", "n01443537_2", "n01443537", "train"),
    ]
    val: Facts = [
        (
            "val/n01440764/ILSVRC2012_val_00000293.JPEG",
            "ILSVRC2012_val_00000293",
            "n01440764",
            "val",
        )
    ]
    test: Facts = [
        ("test/ILSVRC2012_test_00000001.JPEG", "ILSVRC2012_test_00000001", None, "test"),
    ]
    assert facts(ImageNet(root=tmp_path)) == train + val + test
    assert facts(ImageNet(root=tmp_path, splits=("val",))) == val


def test_kaggles_folders_and_its_solution(tmp_path: Path) -> None:
    base = "ILSVRC/Data/CLS-LOC"
    put(tmp_path, f"{base}/train/n01440764/n01440764_1.JPEG")
    put(tmp_path, f"{base}/val/ILSVRC2012_val_00000002.JPEG")
    put(tmp_path, f"{base}/val/ILSVRC2012_val_00000001.JPEG")
    put(
        tmp_path,
        "LOC_val_solution.csv",
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000002,n03995372 85 1 499 272 \n"
        "ILSVRC2012_val_00000001,n01751748 1 2 3 4 n01751748 5 6 7 8 \n",
    )
    found = facts(ImageNet(root=tmp_path))
    assert [(clip, label) for _, clip, label, _ in found] == [
        ("n01440764_1", "n01440764"),
        ("ILSVRC2012_val_00000001", "n01751748"),
        ("ILSVRC2012_val_00000002", "n03995372"),
    ]


def make_kit(root: Path, truth: str) -> None:
    kind = np.dtype([("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    # The kit's numbers follow another order than the ids.
    rows = [(1, "n02119789", "kit fox"), (2, "n01440764", "tench"), (1861, "n00001740", "entity")]
    folder = "ILSVRC2012_devkit_t12/data"
    put(root, f"{folder}/ILSVRC2012_validation_ground_truth.txt", truth)
    savemat(root / folder / "meta.mat", {"synsets": np.array(rows, dtype=kind)})


def test_the_development_kit_labels_flat_validation_images(tmp_path: Path) -> None:
    put(tmp_path, "val/ILSVRC2012_val_00000001.JPEG")
    put(tmp_path, "val/ILSVRC2012_val_00000002.JPEG")
    assert [label for _, _, label, _ in facts(ImageNet(root=tmp_path))] == [None, None]
    make_kit(tmp_path, "2\n1\n")
    found = facts(ImageNet(root=tmp_path))
    assert [label for _, _, label, _ in found] == ["n01440764", "n02119789"]
    make_kit(tmp_path, "2\n3\n")
    with pytest.raises(ValueError, match=r"ground_truth\.txt line 2: '3' is no class of .*meta"):
        facts(ImageNet(root=tmp_path))
    put(tmp_path, "ILSVRC2012_devkit_t12/data/meta.mat", "no matrix")
    with pytest.raises(ValueError, match=r"meta\.mat does not name the classes"):
        facts(ImageNet(root=tmp_path))


def test_21k_as_folders_and_as_archives(tmp_path: Path) -> None:
    put(tmp_path, "n00004475/n00004475_6590.JPEG", JPEG)
    tar(tmp_path / "n00005787.tar", [("n00005787_2.JPEG", JPEG), ("n00005787_10.JPEG", JPEG)])
    put(tmp_path, "n00006484.tar", b"damaged")
    put(tmp_path, "words.txt", "n00004475\torganism\n")
    entries = list(ImageNet(root=tmp_path, name="imagenet-21k").entries())
    assert [(entry.path, entry.clip, entry.label) for entry in entries] == [
        ("n00004475/n00004475_6590.JPEG", "n00004475_6590", "n00004475"),
        ("n00005787.tar#n00005787_2.JPEG", "n00005787_2", "n00005787"),
        ("n00005787.tar#n00005787_10.JPEG", "n00005787_10", "n00005787"),
        ("n00006484.tar#", "n00006484.tar#", None),
    ]
    with Decoder() as decoder:
        row = rows_of_file(decoder, tmp_path, "imagenet-21k", entries[-1:])[0]
    assert row.status == "refused"
    assert "n00006484.tar is not a tar archive" in (row.reason or "")


def test_flat_names_and_ids_after_the_name(tmp_path: Path) -> None:
    put(tmp_path, "n01440764_tench.jpg")
    put(tmp_path, "n01443537_22563_n01443537.JPEG")
    assert facts(ImageNet(root=tmp_path, split="sample")) == [
        ("n01440764_tench.jpg", "n01440764_tench.jpg", "n01440764", "sample"),
        ("n01443537_22563_n01443537.JPEG", "n01443537_22563", "n01443537", "sample"),
    ]
    named = tmp_path / "other"
    put(named, "val/ILSVRC2012_val_00000001_n01751748.JPEG")
    path = "val/ILSVRC2012_val_00000001_n01751748.JPEG"
    assert facts(ImageNet(root=named)) == [(path, "ILSVRC2012_val_00000001", "n01751748", "val")]


def test_what_is_not_imagenet_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/tench/1.JPEG")
    with pytest.raises(ValueError, match="train/tench is no class folder such as n01440764; exp"):
        facts(ImageNet(root=tmp_path))
    with pytest.raises(ValueError, match="has no image of val; expected"):
        facts(ImageNet(root=tmp_path, splits=("val",)))
    with pytest.raises(ValueError, match="split 'dev' is not one of train, val, test"):
        ImageNet(root=tmp_path, splits=("dev",))


def test_davis_of_2017_and_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path, "JPEGImages/480p/bear/00000.jpg")
    put(tmp_path, "JPEGImages/480p/unlisted/00000.jpg")
    put(tmp_path, "ImageSets/2017/train.txt", "bear\n")
    put(tmp_path, "ImageSets/2017/val.txt", "bike-packing\n\n")
    put(tmp_path, "ImageSets/2016/val.txt", "bear\n")
    assert facts(Davis(root=tmp_path)) == [
        ("JPEGImages/480p/bear", "bear", None, "train"),
        ("JPEGImages/480p/bike-packing", "bike-packing", None, "val"),
    ]
    assert facts(Davis(root=tmp_path, year=2016)) == [
        ("JPEGImages/480p/bear", "bear", None, "val"),
    ]
    assert {entry.fps for entry in Davis(root=tmp_path).entries()} == {24.0}


def test_davis_of_2016_lists_frames_by_resolution(tmp_path: Path) -> None:
    put(tmp_path, "JPEGImages/1080p/camel/00000.jpg")
    lines = [
        f"/JPEGImages/1080p/camel/{i:05d}.jpg /Annotations/1080p/camel/{i:05d}.png" for i in (0, 1)
    ]
    put(tmp_path, "ImageSets/1080p/val.txt", "\n".join(lines))
    put(tmp_path, "ImageSets/1080p/trainval.txt", "\n".join(lines))
    assert facts(Davis(root=tmp_path, year=2016, resolution="1080p")) == [
        ("JPEGImages/1080p/camel", "camel", None, "val"),
    ]


def test_davis_without_lists_is_all_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path, "JPEGImages/480p/camel/00000.jpg")
    put(tmp_path, "JPEGImages/480p/bear/00000.jpg")
    put(tmp_path, "JPEGImages/480p/notes.txt")
    assert [clip for _, clip, _, _ in facts(Davis(root=tmp_path, split="test"))] == [
        "bear",
        "camel",
    ]


def test_davis_refuses_other_layouts(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages" / "480p").mkdir(parents=True)
    with pytest.raises(ValueError, match="480p has no sequence; expected"):
        facts(Davis(root=tmp_path))
    with pytest.raises(ValueError, match="has no folder JPEGImages/Full-Resolution; expected"):
        facts(Davis(root=tmp_path, resolution="Full-Resolution"))
    put(tmp_path, "ImageSets/2017/train.txt", "bear\n")
    with pytest.raises(ValueError, match="has no list of 2019, it has 2017; choose --dataset"):
        facts(Davis(root=tmp_path, year=2019))
    put(tmp_path, "ImageSets/2017/val.txt", "camel\nbear\n")
    with pytest.raises(ValueError, match=r"val\.txt line 2: bear is in train too"):
        facts(Davis(root=tmp_path))
    put(tmp_path, "ImageSets/2017/val.txt", "../00000.jpg\n")
    with pytest.raises(ValueError, match=r"val\.txt line 1 names no sequence"):
        facts(Davis(root=tmp_path))
