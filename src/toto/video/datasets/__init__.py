"""Where videos and images come from: one file a data set, one line here."""

from toto.video.datasets.cater import Cater
from toto.video.datasets.davis import Davis
from toto.video.datasets.ego4d import Ego4D
from toto.video.datasets.files import Files
from toto.video.datasets.folder import Folder
from toto.video.datasets.howto100m import HowTo100M
from toto.video.datasets.imagenet import ImageNet
from toto.video.datasets.kinetics import Kinetics
from toto.video.datasets.sample_clips import SampleClips
from toto.video.datasets.webdataset import WebDataset
from toto.video.entry import Dataset

DATASETS: dict[str, type[Dataset]] = {
    "folder": Folder,
    "files": Files,
    "webdataset": WebDataset,
    "imagenet": ImageNet,
    "kinetics": Kinetics,
    "ego4d": Ego4D,
    "howto100m": HowTo100M,
    "davis": Davis,
    "cater": Cater,
    "sample_clips": SampleClips,
}

AnyDataset = (
    Folder
    | Files
    | WebDataset
    | ImageNet
    | Kinetics
    | Ego4D
    | HowTo100M
    | Davis
    | Cater
    | SampleClips
)
