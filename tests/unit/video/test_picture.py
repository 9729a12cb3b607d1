import socket
from collections.abc import Iterator

import numpy as np
import pytest

from toto.video.answer import Inbox
from toto.video.channel import MESSAGE_BYTES, Channel
from toto.video.picture import Outbox

SHAPE = (128, 128, 3)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    channels = Channel(ours), Channel(theirs)
    for channel in channels:
        channel.set_deadline(10)
    yield channels
    for channel in channels:
        channel.close()


def picture(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def asked(*frames: int | None) -> dict:
    return {"spans": [{"frames": count} for count in frames], "thumbnail_every_s": None}


def sent(theirs: Channel, header: dict, shape: tuple[int, ...]) -> None:
    theirs.send({"height": shape[1], "width": shape[2], **header}, np.zeros(shape, np.uint8))


def test_pictures_arrive_as_they_were_sent_and_several_a_message(
    ends: tuple[Channel, Channel],
) -> None:
    ours, theirs = ends
    outbox, inbox, request = Outbox(theirs), Inbox(max_pixels=1 << 24), asked(None, 30)
    inbox.expect(request)
    for number in range(30):
        outbox.add(picture(number), spans=[0, 1], index=4 * number, time_s=number / 7)
    outbox.send()
    outbox.send()  # nothing is left, and nothing is sent
    theirs.send({"done": {}})
    messages = number = 0
    while "done" not in (message := ours.receive()):
        messages += 1
        got = inbox.take(message, ours)
        words = zip(got.spans, got.indices, got.times_s, strict=True)
        for array, said in zip(got.arrays, words, strict=True):
            assert said == ([0, 1], 4 * number, number / 7)
            np.testing.assert_array_equal(array, picture(number))
            number += 1
    assert (messages, number) == (2, 30)
    assert request["spans"] == [{"frames": None}, {"frames": 0}]


def test_a_large_picture_goes_alone(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    outbox, inbox, large = Outbox(theirs), Inbox(max_pixels=1 << 24), picture(0, (600, 600, 3))
    inbox.expect(asked(None))
    outbox.add(large, spans=[0], index=0, time_s=0.0)
    assert large.size > MESSAGE_BYTES
    (got,) = inbox.take(ours.receive(), ours).arrays
    np.testing.assert_array_equal(got, large)


def test_thousands_of_tiny_pictures_fit_the_header(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    outbox, inbox, count = Outbox(theirs), Inbox(max_pixels=1 << 24), 0
    inbox.expect(asked(*[None] * 200))
    for number in range(3000):
        outbox.add(picture(0, (1, 1, 3)), spans=[*range(200)], index=number, time_s=0.1)
        if number % 1500 == 1499:
            outbox.send()
            theirs.send({"done": {}})
            while "done" not in (message := ours.receive()):
                count += len(inbox.take(message, ours).arrays)
    assert count == 3000


def words(*spans: list[int]) -> dict:
    return {"spans": [*spans], "indices": [0] * len(spans), "times_s": [0.0] * len(spans)}


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (words([0], [0], [0]), "a frame too many for span 0"),
        (words([1]), r"a frame for spans \[1\]"),
        (words([-1]), r"a frame for spans \[-1\]"),
        (words([0, 0]), r"a frame for spans \[0, 0\]"),
        (words([0], []), r"a frame of \(8, 8, 3\) for spans \[\]"),
        (words([]), r"a frame of \(8, 8, 1\) for spans \[\]"),
        (words(*[[0]] * 6000), r"6000 frames of \(8, 8, 3\) in one message"),
        ({**words([0]), "times_s": []}, "1 spans, 1 indices, 0 times"),
        ({**words([0]), "indices": []}, "1 spans, 0 indices, 1 times"),
    ],
)
def test_what_was_not_asked_for_is_not_taken(
    ends: tuple[Channel, Channel], said: dict, complaint: str
) -> None:
    ours, theirs = ends
    inbox = Inbox(max_pixels=1 << 24)
    inbox.expect(asked(2))
    sent(theirs, said, (1, 8, 8, 3))
    with pytest.raises(ValueError, match=complaint):
        inbox.take(ours.receive(), ours)


def test_pictures_of_one_request_have_one_size(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    inbox = Inbox(max_pixels=1 << 24)
    inbox.expect(asked(None))
    sent(theirs, words([0]), (1, 8, 8, 3))
    inbox.take(ours.receive(), ours)
    sent(theirs, words([0]), (1, 8, 9, 3))
    with pytest.raises(TypeError, match=r"a frame of \(8, 9, 3\) after \(8, 8, 3\)"):
        inbox.take(ours.receive(), ours)
