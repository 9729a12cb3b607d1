"""Serve a page in a process of its own that writes down what it asks of the network.

Run as: made_web_page.py NOTES RUN|careless SETTINGS. The careless page does what a page must not:
it reads whatever path it is given, and hands it back. Only what stands before it protects it.
"""

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EVENTS = ("upload", "contents", "count", "make", "echo")
STEP_S = 0.1


def listen_in(notes: Path) -> None:
    """Write down every address that this process looks up or connects to."""
    out = os.open(notes / "network", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {
            "socket.connect",
            "socket.getaddrinfo",
            "socket.sendto",
            "socket.gethostbyname",
        }:
            os.write(out, f"{event} {arguments!r}\n".encode())

    sys.addaudithook(hear)


def careless_page(notes: Path) -> Any:
    import gradio

    from toto.app.uploads import UploadRefusedError, read_upload

    def upload(path: str) -> str:
        try:
            clip = read_upload(path)
        except UploadRefusedError as error:
            return str(error)
        numbers = clip.frames[:, ::16, ::16].flatten().tolist()
        return json.dumps({"frames": len(clip.frames), "pixels": numbers})

    def contents(path: str) -> str:
        return Path(path).read_bytes().decode("latin-1")

    def count() -> Iterator[str]:
        try:
            for number in range(600):
                (notes / "count").write_text(str(number))
                time.sleep(STEP_S)
                yield str(number)
        finally:
            (notes / "count").write_text("ended")

    def make(words: str) -> str:
        import tempfile

        folder = Path(tempfile.mkdtemp())
        (folder / "made.txt").write_text(words)
        return str(folder / "made.txt")

    with gradio.Blocks(analytics_enabled=False) as page:
        file, words, said, made = gradio.File(), gradio.Textbox(), gradio.Textbox(), gradio.File()
        buttons = [gradio.Button(name) for name in EVENTS]
        buttons[0].click(upload, file, said)
        buttons[1].click(contents, file, said)
        buttons[2].click(count, None, said)
        buttons[3].click(make, words, made)
        buttons[4].click(lambda told: told, words, said)
    return page


def note_memory(notes: Path) -> None:
    while True:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (notes / "peak_kib.new").write_text(str(peak))
        os.replace(notes / "peak_kib.new", notes / "peak_kib")
        time.sleep(0.2)


def main() -> None:
    notes, run, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    listen_in(notes)
    threading.Thread(target=note_memory, args=[notes], daemon=True).start()
    import torch

    torch.set_num_threads(1)
    from toto.app.serve import PageServer, ServeConfig

    if settings.get("password_file"):
        settings["password_file"] = Path(settings["password_file"])
    with PageServer(ServeConfig(**{"port": 0, "names": (), **settings})) as server:
        (notes / "address.new").write_text(server.url)
        os.replace(notes / "address.new", notes / "address")
        if run == "careless":
            server.run(lambda: careless_page(notes))
        else:
            from toto.app.page import build_page

            server.run(lambda: build_page(Path(run)))


if __name__ == "__main__":
    main()
