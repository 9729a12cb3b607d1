"""What one file may cost before it is refused."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """What one file may cost before it is refused."""

    max_pixels: int = 4096 * 4096
    """Width times height, as the file claims it and as its frames come."""
    max_duration_s: float = 4 * 3600.0
    max_file_bytes: int = 16 << 30
    max_frames: int = 100_000
    """Frames kept by one `read`."""
    max_kept_bytes: int = 4 << 30
    """Bytes of the frames kept by one `read`."""
    max_streams: int = 64
    memory_bytes: int = 2 << 30
    """Address space of the child; its libraries alone take 0.2 GiB. With torchcodec, whose
    libraries take 1 GiB or more, it is what comes beyond them."""
    wall_s: float = 600.0
    """Time for one file, without what the receiver of a stream takes between two pieces."""
    cpu_grace_s: float = 5.0
    """Processor time that any file may take; beyond it, the more the larger the file."""
    least_bytes_per_cpu_s: int = 3000
    """Bytes that each further second of it must be for: a film of black screens has 10000, a file
    made to keep machines busy has next to none."""
    files_per_child: int = 200
    """A child is replaced after so many files, so that leaks in libraries stay small."""
    images_per_child: int = 5000
    """The same for still images, of which each costs a start's time many times less."""
    image_wall_s: float = 60.0
    """Time for one still image."""

    def cpu_s(self, file_bytes: int) -> float:
        """Say how many seconds of processor time a file of this size may take."""
        return min(self.wall_s, self.cpu_grace_s + file_bytes / self.least_bytes_per_cpu_s)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be above 0, got {getattr(self, field.name)}")
        if self.memory_bytes < 512 << 20:
            raise ValueError(f"memory_bytes must be at least 512 MiB, got {self.memory_bytes}")
