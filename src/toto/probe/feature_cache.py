"""Features on disk, found again only by what they are of.

It pays where the same features are read more than once: by further heads, rates or seeds, or by a
study that was stopped. An entry's name is the digest of all that decides the features, so other
weights, layers, precision or data are another entry, and never an older one's.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Int64
from safetensors.torch import load_file, save_file
from torch import Tensor

from toto.config import digest
from toto.probe.fit import Features
from toto.runtime import durable

FEATURES, FACTS = "features.safetensors", "facts.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureCache:
    """A folder of features.

    Attributes:
        folder: of the entries; made when the first is written.
    """

    folder: Path

    def read(self, facts: Mapping[str, Any], labels: Int64[Tensor, "G N"]) -> Features | None:
        """Find features by what decides them.

        Args:
            facts: plain values: digests of model and data, layers, precision, which clips.
            labels: of the clips, which the cache does not hold.

        Returns:
            The features, or None if there are none of these facts.

        Raises:
            ValueError: if the entry is damaged.
        """
        entry = self._entry(facts)
        if not entry.is_dir():
            return None
        said = json.loads((entry / FACTS).read_text())
        if said["facts"] != json.loads(json.dumps(facts)):
            raise ValueError(f"{entry} was edited: its facts are not its name; delete it")
        if durable.sha256_file(entry / FEATURES) != said["sha256"]:
            raise ValueError(f"{entry / FEATURES} is damaged: its sha256 differs; delete {entry}")
        tensors = load_file(entry / FEATURES)
        return Features(tokens=tensors["tokens"], averages=tensors["averages"], labels=labels)

    def write(self, facts: Mapping[str, Any], features: Features) -> None:
        """Keep features under what decides them.

        Raises:
            DiskFullError: if they do not fit.
        """
        needed = features.tokens.nbytes + features.averages.nbytes
        durable.make_folder(self.folder)
        durable.require_space(self.folder, needed_bytes=needed)
        temporary = self.folder / f".{uuid.uuid4().hex}.tmp"
        durable.make_folder(temporary)
        save_file({"tokens": features.tokens, "averages": features.averages}, temporary / FEATURES)
        said = {"facts": dict(facts), "sha256": durable.sha256_file(temporary / FEATURES)}
        durable.write_json(temporary / FACTS, said)
        durable.commit_folder(temporary, self._entry(facts))

    def _entry(self, facts: Mapping[str, Any]) -> Path:
        return self.folder / digest(dict(facts))
