"""From video files to frames: isolated decoding, sampling, resizing, manifests, writing.

Kept empty of imports: the decode child starts through this package and must start quickly.
"""
