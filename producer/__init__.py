"""Publishes audio events: a library and a command."""

from producer.errors import ManifestError, PublishError
from producer.publisher import Publisher, Receipt

__all__ = ["ManifestError", "PublishError", "Publisher", "Receipt"]
