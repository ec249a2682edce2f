"""What can go wrong before an event is on its topic."""


class PublishError(Exception):
    """The event was not published, or may not have been; the message says which, why, and what to do."""


class ManifestError(PublishError):
    """A line of a manifest cannot be used."""
