"""What the page's own scripts say to it, taken apart and put together anew before Gradio reads it.

Gradio's models have more fields than its scripts use, and its components take texts for paths and
addresses. Of a message only the fields below go on, and no text that names a file or an address,
except the visitor's own files.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from toto.app.door import CANCEL, JOIN
from toto.app.ownership import Ownership

_ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]*://|file:|[/\\~])", re.IGNORECASE)
_FIELDS = {
    JOIN: ("data", "fn_index", "session_hash", "event_data", "trigger_id"),
    CANCEL: ("session_hash", "fn_index", "event_id"),
}


def retold(
    path: str, body: bytes, *, visitor: str, ownership: Ownership, events: Collection[int]
) -> bytes:
    """Read a message and write it again with what the page needs of it.

    Args:
        path: that it was sent to; of those that are not listed above, nothing is kept.
        body: JSON.
        visitor: who sent it.
        ownership: what is theirs.
        events: numbers of the page's events.

    Raises:
        ValueError: if it is none of the page's messages.
        NotYoursError: if it names what is another's.
    """
    try:
        said = json.loads(body.decode())
    except RecursionError as error:
        raise ValueError("its brackets have no end") from error
    if not isinstance(said, dict):
        raise ValueError("it is no object")
    if path == JOIN:
        if not _is_number(said.get("fn_index")) or said["fn_index"] not in events:
            raise ValueError("it is of no event")
        if not isinstance(said.get("data"), list):
            raise ValueError("it holds no data")
        if not (said.get("trigger_id") is None or _is_number(said["trigger_id"])):
            raise ValueError("it is of no component")
        _check_names([said["data"], said.get("event_data")], visitor, ownership)
        ownership.claim(said.get("session_hash"), visitor)
    elif path == CANCEL:
        if not _is_number(said.get("fn_index")) or not isinstance(said.get("event_id"), str):
            raise ValueError("it is of no event")
        ownership.require(said.get("session_hash"), visitor)
    kept = {name: said[name] for name in _FIELDS.get(path, ()) if name in said}
    return json.dumps(kept).encode()


def _check_names(values: Any, visitor: str, ownership: Ownership) -> None:
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            # A file is known by its path; the address is for the browser.
            value.pop("url", None)
            if value.get("path") is not None:
                ownership.file(str(value["path"]), visitor)
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and _ADDRESS.match(value):
            ownership.file(value, visitor)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
