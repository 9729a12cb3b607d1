"""The paper's values, to stand beside ours; docs/paper.md says how sure each is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A value of the paper."""

    row: str
    """Of docs/paper.md."""
    what: str
    value: float
    """In [0, 1]."""


def _of(row: str, what: str, **percent: float) -> dict[str, Published]:
    return {
        f"{row}-{name}" if name != "all" else row: Published(
            row=row, what=what if name == "all" else f"{what}, {name}", value=round(value / 100, 6)
        )
        for name, value in percent.items()
    }


PUBLISHED: dict[str, Published] = {
    **_of("T3a", "ImageNet-1k, linear probe, VQGAN 16x16, 16 k codes", all=61.3),
    **_of("T3b", "ImageNet-1k, linear probe, VQGAN 16x16, 1 k codes", all=61.1),
    **_of("T3c", "ImageNet-1k, linear probe, dVAE 32x32", all=61.2),
    **_of("T3d", "ImageNet-1k, linear probe, dVAE 16x16", all=53.2),
    **_of("T3e", "ImageNet-1k, linear probe, patches in and out", all=60.6),
    **_of("T3f", "ImageNet-1k, linear probe, patches in, dVAE codes out", all=58.5),
    **_of("T4c", "ImageNet-1k, linear probe, dVAE 16x16, then 32x32", all=63.2),
    **_of("T4d", "ImageNet-1k, linear probe, the same at RoPE base 50,000", all=64.4),
    **_of("T5a", "ImageNet-1k, average pooling", all=53.2),
    **_of("T5b", "ImageNet-1k, attention pooling", all=61.1),
    **_of("T6a", "ImageNet-1k, linear probe, LLaMA", all=53.2),
    **_of("T6b", "ImageNet-1k, linear probe, GPT-2", all=48.5),
    **_of("T6c", "ImageNet-1k, linear probe, Mamba", all=40.7),
    **_of("T7", "ImageNet-1k, attention probe", base=64.7, large=71.1, **{"1b": 75.3}),
    **_of("T8", "Kinetics-400, attention probe", base=59.3, large=65.3, **{"1b": 74.4}),
    **_of("T10a", "DAVIS-2017, base at 256 px", j_and_f=42.0, j=41.2, f=43.1),
    **_of("T10b", "DAVIS-2017, large at 256 px", j_and_f=44.8, j=44.4, f=45.1),
    **_of("T10c", "DAVIS-2017, 1b at 256 px", j_and_f=46.1, j=45.8, f=46.4),
    **_of("T10d", "DAVIS-2017, large at 512 px", j_and_f=62.4, j=59.2, f=65.6),
    **_of("T12", "CATER, large", **{"16 frames": 62.8, "32 frames": 72.9}),
    **_of("T13", "ImageNet-1k, whole model fine-tuned", all=82.6),
    **_of("T14", "ImageNet-1k, linear probe, 1b", all=66.2),
    **_of("T16", "Kinetics-400, large head", base=61.2, large=65.8, **{"1b": 74.8}),
}
"""By row of docs/paper.md, and model or metric where a row has several."""
