"""Where videos come from: one file a dataset, one line here."""

from toto.video.datasets.folder import Folder
from toto.video.datasets.sample_clips import SampleClips
from toto.video.ingest import Dataset

DATASETS: dict[str, type[Dataset]] = {
    "folder": Folder,
    "sample_clips": SampleClips,
}
