"""How many frames a tokenizer works on at once: a matter of memory and speed, never of ids."""

ENCODE_PX = 16 * 128 * 128
"""Pixels encoded or decoded at once. Bounds memory whatever the frames' size: a frame of 256 px
takes four times as much as one of 128 px."""


def frames_at_once(height_px: int, width_px: int) -> int:
    """Count the frames of this size that are encoded or decoded together, at least one."""
    return max(1, ENCODE_PX // (height_px * width_px))
