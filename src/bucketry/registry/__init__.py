"""The verbs of the distribution spec over an object store. It knows no HTTP."""

from __future__ import annotations

from bucketry.registry.blobs import Blob
from bucketry.registry.budget import MemoryBudget
from bucketry.registry.chunks import Chunk, Progress
from bucketry.registry.manifests import Pushed, StoredManifest
from bucketry.registry.parallel import Opened, Stage, Status, Verifying
from bucketry.registry.parts import BodyInterrupted
from bucketry.registry.registry import NewerFormat, Registry
from bucketry.registry.settings import Clock, Ids, RandomIds, RegistrySettings, SystemClock

__all__ = [
    "Blob",
    "BodyInterrupted",
    "Chunk",
    "Clock",
    "Ids",
    "MemoryBudget",
    "NewerFormat",
    "Opened",
    "Progress",
    "Pushed",
    "RandomIds",
    "Registry",
    "RegistrySettings",
    "Stage",
    "Status",
    "StoredManifest",
    "SystemClock",
    "Verifying",
]
