"""The frames that a tokenizer is trained on, and those that it is measured on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.jobs.progress import bar, console
from toto.video.collection import Collection, Part
from toto.video.datasets.image_folder import ImageFolder, read_images
from toto.video.decode import Decoder


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFrames:
    """Where squares of pixels come from: a folder of images, a data folder of clips, or both."""

    images: Path | None = None
    """Folder of still images; the middle square of each is taken."""
    clips: Path | None = None
    """Data folder that `toto ingest` wrote."""
    side_px: int = 64
    """Side of the squares. Images are resized to it; from frames of clips, which are decoded 7/4
    as large as the data folder says, random squares are cut."""
    image_limit: int = 1_000_000
    """At most so many images, spread evenly over the folder."""
    held_out_images: float = 0.02
    """Share of the images that measures the training; of clips it is the end of each."""
    clip_frames: int = 3000
    """Squares cut from real clips."""
    digit_frames: int = 0
    """Frames of the data folder's moving digits, whose side must be `side_px`."""

    def __post_init__(self) -> None:
        if self.side_px < 8:
            raise ValueError(f"side_px {self.side_px} must be at least 8")
        if not 0 < self.held_out_images <= 0.5:
            raise ValueError(f"held_out_images {self.held_out_images} must lie in (0, 0.5]")
        for name in ("clip_frames", "digit_frames"):
            if 0 < getattr(self, name) < 10 or getattr(self, name) < 0:
                raise ValueError(
                    f"{name} {getattr(self, name)}: 0, or at least 10, since a tenth as many are "
                    "held out"
                )

    def read(
        self, random: np.random.Generator
    ) -> tuple[UInt8[Tensor, "N S S 3"], UInt8[Tensor, "M S S 3"]]:
        """Decode all, in isolation; returns those to train on and those held out.

        Raises:
            ValueError: if there is no source, one cannot be read, or sides do not fit.
        """
        if self.images is None and self.clips is None:
            raise ValueError("nothing to train on: give --sources.images or --sources.clips")
        train: list[Tensor] = []
        held_out: list[Tensor] = []
        with Decoder() as decoder:
            if self.images is not None:
                for frames, into in zip(self._images(decoder), (train, held_out), strict=True):
                    into.append(frames)
            if self.clips is not None:
                collection = Collection(self.clips)
                train.append(self.of_clips(decoder, collection, "pretrain", random))
                held_out.append(self.of_clips(decoder, collection, "held-out", random, 0.1))
        return torch.cat(train), torch.cat(held_out)

    def _images(self, decoder: Decoder) -> tuple[Tensor, Tensor]:
        assert self.images is not None
        files = ImageFolder(root=self.images).files(limit=self.image_limit)
        with bar("images", len(files)) as progress:
            images, refused = read_images(decoder, files, side_px=self.side_px, over=progress.over)
        for refusal in refused[:5]:
            console.print(f"left out {refusal}", markup=False)
        if len(refused) > 5:
            console.print(f"left out {len(refused) - 5} more images")
        every = round(1 / self.held_out_images)
        held_out = np.arange(len(images)) % every == every - 1
        if not held_out.any():
            raise ValueError(
                f"{self.images}: {len(images)} images are too few to hold one of {every} out"
            )
        return torch.from_numpy(images[~held_out]), torch.from_numpy(images[held_out])

    def of_clips(
        self,
        decoder: Decoder,
        collection: Collection,
        part: Part,
        random: np.random.Generator,
        share: float = 1.0,
    ) -> UInt8[Tensor, "N S S 3"]:
        """Random squares of real frames, and random frames of moving digits.

        Args:
            decoder: decodes them.
            collection: the data folder.
            part: of each clip.
            random: chooses them.
            share: of `clip_frames` and `digit_frames`.

        Raises:
            ValueError: if the sides do not fit, or neither kind of frame is wanted.
        """
        chosen = []
        if self.clip_frames:
            backgrounds = collection.backgrounds(decoder, part)
            least_px = min(min(frames.shape[1:3]) for frames in backgrounds)
            if least_px < self.side_px:
                raise ValueError(
                    f"frames of {least_px} px, 7/4 of the data folder's side, hold no square of "
                    f"side_px {self.side_px}; ingest with a larger --collection.side-px"
                )
            for _ in range(round(share * self.clip_frames)):
                frames = backgrounds[random.integers(len(backgrounds))]
                frame = frames[random.integers(len(frames))]
                top = random.integers(frame.shape[0] - self.side_px + 1)
                left = random.integers(frame.shape[1] - self.side_px + 1)
                chosen.append(frame[top : top + self.side_px, left : left + self.side_px])
        wanted = round(share * self.digit_frames)
        if wanted:
            if collection.config.side_px != self.side_px:
                raise ValueError(
                    f"digits of {collection.config.side_px} px are no squares of side_px "
                    f"{self.side_px}; set one to the other, or digit_frames to 0"
                )
            digits = collection.digits(decoder, "pretrain" if part == "pretrain" else "selection")
            # Four frames a clip: neighbours differ little, and making a clip costs a millisecond.
            for index in range(-(-wanted // 4)):
                clip = digits[index].clip.frames
                chosen += list(clip[random.permutation(len(clip))[:4]].numpy())
        if not chosen:
            raise ValueError("clips are given, but clip_frames and digit_frames are both 0")
        return torch.from_numpy(np.stack(chosen))
