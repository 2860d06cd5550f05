"""Adoption: what another registry keeps below ``docker/registry/v2/`` becomes this one's, where it is."""

from __future__ import annotations

from bucketry.registry.adoption.adopter import Adopter, open_registry
from bucketry.registry.adoption.events import Event, Listener, Report
from bucketry.registry.adoption.requests import Requests
from bucketry.registry.adoption.roots import TreeMissing

__all__ = ["Adopter", "Event", "Listener", "Report", "Requests", "TreeMissing", "open_registry"]
