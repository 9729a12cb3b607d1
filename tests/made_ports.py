"""Ports for ranks to meet at."""

import random
import socket


def free_port() -> int:
    """Choose a port of this machine that nothing listens at.

    Below the range from which the system serves whoever asks for any port: one of those may be
    another program's by the time that the ranks have started.
    """
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(20_000, 32_000)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
