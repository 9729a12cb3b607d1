"""Files on their way in and out: a visitor's uploads, and what they may fetch."""

import asyncio
import mimetypes
from pathlib import Path

from toto.app.asgi import Receive, Scope, Send, answer, header
from toto.app.store import Store

MOST_FILES = 4
"""Of one upload."""
SHOWN = ("image/png", "image/jpeg", "image/webp", "video/mp4")
"""What a browser may show; anything else it may only save."""


async def take(scope: Scope, receive: Receive, store: Store) -> list[Path] | int:
    """Read the files of an upload into a store.

    Returns:
        Where they lie, or the status with which the upload is refused.
    """
    from python_multipart.exceptions import FormParserError
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException
    from starlette.requests import ClientDisconnect, Request

    if not (header(scope, b"content-type") or "").startswith("multipart/form-data"):
        return 400
    try:
        async with Request(scope, receive).form(max_files=MOST_FILES, max_fields=8) as form:
            files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
            paths = [
                await asyncio.to_thread(store.add, file.file, file.filename or "") for file in files
            ]
    except (ClientDisconnect, FormParserError, HTTPException, MultiPartException):
        return 400
    return paths or 400


async def give(path: Path, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a file, or those parts of it that are asked for."""
    from starlette.responses import FileResponse

    if path.is_symlink() or not path.is_file():
        await answer(send, 404)
        return
    kind = mimetypes.guess_type(path.name)[0]
    shown = kind in SHOWN
    response = FileResponse(
        path,
        media_type=kind if shown else "application/octet-stream",
        filename=path.name,
        content_disposition_type="inline" if shown else "attachment",
        headers={"cache-control": "private, no-store"},
    )
    await response(scope, receive, send)
