"""Probes of a data set's own classes; the demo's, of its digits, are in `demo.py`."""

from pathlib import Path

from toto.jobs.labelled_splits import OWN, SplitNames
from toto.jobs.probe import Probe
from toto.tasks.classification import Task


def classes() -> Probe:
    """The classes of a small data set with splits `train` and `val`, such as 40 of ImageNet's.

    A tenth of each training class chooses layer and pooling. The features of all layers are held in
    memory, 2 bytes a channel: for a data set of ImageNet's size `toto finetune frozen-linear` and
    `frozen-attention` read every image anew.

    Command: toto probe classes --run-folder RUN --shards SHARDS --tasks.0.classes 40
    """
    return Probe(
        run_folder=Path("runs/pretrain"),
        shards="runs/shards/imagenet",
        splits=SplitNames(selection="", test="val"),
        tasks=(Task(name=OWN, classes=1000),),
    )
