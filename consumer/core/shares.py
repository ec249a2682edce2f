"""Shares of the traffic, chosen by the recording, so that a replay chooses the same; pure."""

import hashlib

_WHOLE = 1 << 64


def is_chosen(purpose: str, digest: str, share: float) -> bool:
    """Whether a recording is in the share (0 to 1) of a purpose; the shares of two purposes are independent."""
    drawn = hashlib.sha256(f"{purpose}/{digest}".encode()).digest()[:8]
    return int.from_bytes(drawn, "big") < share * _WHOLE
