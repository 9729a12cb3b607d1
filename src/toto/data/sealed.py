"""JSON files that carry a hash of themselves, so that a changed one is never read.

Only the exact bytes that `seal` gives are taken: there is one spelling of a content, and every
other one is damage. The seal finds accidents; who must also exclude a forger compares the hash of
the whole file with one that came another way (`toto.data.remote`, `#sha256=`).
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def seal(body: Mapping[str, Any]) -> bytes:
    """Spell a JSON object, one key a line, with its own hash under `seal`."""
    return _spell({**body, "seal": hashlib.sha256(_spell(body)).hexdigest()})


def unseal(data: bytes, *, where: str, schema: int) -> dict[str, Any]:
    """Read what `seal` gave, without the seal.

    Args:
        data: the file's bytes.
        where: its path or address; for messages.
        schema: the number that `schema` must have inside.

    Raises:
        ValueError: if it is not what was written, or of another schema.
    """
    try:
        body = json.loads(data)
        del body["seal"]
        intact = seal(body) == data
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{where} is damaged ({error!r}); tokenise again") from error
    if not intact:
        raise ValueError(f"{where} is damaged: it is not what was written; tokenise again")
    if body.get("schema") != schema:
        raise ValueError(f"{where} has schema {body.get('schema')}, this toto reads {schema}")
    return body


def pack(array: np.ndarray, dtype: str) -> str:
    """Spell numbers as base64 of flat little-endian bytes: JSON lists are slow at 10^6 entries."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


def unpack(text: str, dtype: str, *, where: str) -> np.ndarray:
    """Read what `pack` gave, as i64.

    Raises:
        ValueError: if it is not base64 of such numbers; the message begins with `where`.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype).astype(np.int64)
    except ValueError as error:
        raise ValueError(f"{where} holds no packed numbers: {error}; tokenise again") from error


def _spell(body: Mapping[str, Any]) -> bytes:
    lines = [f"{json.dumps(key)}: {json.dumps(body[key], sort_keys=True)}" for key in sorted(body)]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()
