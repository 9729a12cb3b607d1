import pytest

from toto.video.sniff import container_of, describe


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypisom", "mov"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "mov"),
        (b"RIFF\0\0\0\0AVI LIST", "avi"),
        (b"\x1a\x45\xdf\xa3\x01", "matroska"),
        ((b"G" + bytes(187)) * 3, "mpegts"),
        ((bytes(4) + b"G" + bytes(187)) * 3, "mpegts"),
        (b"\0\0\x01\xba\x44", "mpeg"),
        (b"GIF89a", "gif"),
        (b"G" + bytes(400), None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"\0\0\0\x20ftypavif", None),
        (b"", None),
    ],
)
def test_containers_are_told_by_their_bytes(head: bytes, name: str | None) -> None:
    assert container_of(head) == name


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "the file is empty"),
        (b"#EXTM3U\n", "an HLS playlist"),
        (b"\xef\xbb\xbf \n#EXTM3U\n", "an HLS playlist"),
        (b"ffconcat version 1.0", "an ffconcat list"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WEBP image, not a video"),
        (b"\0\0\0\x20ftypavif", "an AVIF or HEIC image, not a video"),
        (b"frame,label\n1,2\n", "a text file"),
        (b"\x7fELF\x02\x01", "no known video container"),
    ],
)
def test_a_refusal_says_what_the_file_is(head: bytes, words: str) -> None:
    assert words in describe(head)
