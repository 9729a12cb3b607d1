"""`toto data scale`: what it takes to tokenise many hours of video, from measured rates.

docs/scale.md explains the formulas and applies them to HowTo100M.
"""

import math
from dataclasses import dataclass

FRAME_RATE = 30000 / 1001


@dataclass(frozen=True, kw_only=True, slots=True)
class DataScale:
    """Work out machines, hours, disk and network for a set of videos."""

    decode_frames_s: float
    """Source frames that one core decodes and shrinks a second: `make bench` measures it."""
    encode_frames_s: float
    """Squares that one encoder turns into tokens a second: `toto tokenizer bench`."""
    encoders: int = 0
    """GPUs of a machine; 0 encodes on the cores that also decode."""
    cores: int = 16
    """Processor cores of a machine."""
    hours: float = 92627
    """Of video; HowTo100M's unless given."""
    fps: float = FRAME_RATE
    stride: int = 4
    """Every how many-th frame is kept; all are decoded."""
    crops: int = 1
    """Random squares of every frame; decoding is shared, encoding and disk are not."""
    frame_tokens: int = 256
    video_mbit_s: float = 1.0
    """Mean bit rate of the files; an assumption, look at your own."""

    def __post_init__(self) -> None:
        for name in (
            "decode_frames_s",
            "encode_frames_s",
            "cores",
            "hours",
            "fps",
            "stride",
            "crops",
            "frame_tokens",
            "video_mbit_s",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be above 0")
        if self.encoders < 0:
            raise ValueError(f"encoders {self.encoders} must be at least 0")

    @property
    def source_frames(self) -> float:
        """Frames to decode."""
        return self.hours * 3600 * self.fps

    @property
    def encoded_frames(self) -> float:
        """Squares to encode."""
        return self.source_frames * self.encoded_share

    @property
    def encoded_share(self) -> float:
        """Squares to encode a frame to decode."""
        return self.crops / self.stride

    @property
    def decode_core_hours(self) -> float:
        """Of one core that only decodes."""
        return self.source_frames / self.decode_frames_s / 3600

    @property
    def encode_hours(self) -> float:
        """Of one encoder, a GPU or a core, that only encodes."""
        return self.encoded_frames / self.encode_frames_s / 3600

    @property
    def machine_frames_s(self) -> float:
        """Source frames a second of one machine: what its slower half lets through."""
        if self.encoders:
            encoded = self.encoders * self.encode_frames_s / self.encoded_share
            return min(self.cores * self.decode_frames_s, encoded)
        return self.cores / (1 / self.decode_frames_s + self.encoded_share / self.encode_frames_s)

    @property
    def machine_days(self) -> float:
        """Days that one machine takes."""
        return self.source_frames / self.machine_frames_s / 86400

    @property
    def machines_for_a_week(self) -> int:
        """Machines that end within seven days."""
        return math.ceil(self.machine_days / 7)

    @property
    def cores_an_encoder(self) -> float:
        """Cores that must decode to keep one encoder busy."""
        return self.encode_frames_s / self.encoded_share / self.decode_frames_s

    @property
    def token_bytes(self) -> float:
        """Of tokens on disk, two bytes each."""
        return self.encoded_frames * self.frame_tokens * 2

    @property
    def video_bytes(self) -> float:
        """To read from disk or network."""
        return self.hours * 3600 * self.video_mbit_s * 1e6 / 8

    @property
    def machine_read_mbit_s(self) -> float:
        """What one machine reads while it works."""
        return self.video_bytes * 8e-6 / (self.machine_days * 86400)

    def describe(self) -> list[tuple[str, str]]:
        """Give names and values, with units, for a terminal."""
        encoder = "GPU" if self.encoders else "core"
        return [
            ("frames to decode", f"{self.source_frames:.3g}"),
            ("squares to encode", f"{self.encoded_frames:.3g}"),
            ("tokens", f"{self.encoded_frames * self.frame_tokens:.3g}"),
            ("decoding", f"{self.decode_core_hours:,.0f} core-hours"),
            ("encoding", f"{self.encode_hours:,.0f} {encoder}-hours"),
            ("cores that keep one encoder busy", f"{self.cores_an_encoder:.2g}"),
            ("one machine", f"{self.machine_days:,.1f} days"),
            ("machines for a week", f"{self.machines_for_a_week:,}"),
            ("tokens on disk", f"{self.token_bytes / 1e12:.2f} TB"),
            ("videos to read", f"{self.video_bytes / 1e12:.1f} TB"),
            ("read by one machine", f"{self.machine_read_mbit_s:,.0f} Mbit/s"),
        ]
