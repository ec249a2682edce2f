"""Bytes to models and back; what cannot be read says why."""

from typing import Any

import orjson
from pydantic import ValidationError

from schemas.codes import SCHEMA_VERSION, Reason
from schemas.models import AudioEvent, DedupEntry, Model, Recognised


class ContractError(ValueError):
    """A value that breaks the contract.

    ``event_id`` and ``tenant`` are given where they could still be read.
    """

    def __init__(self, reason: Reason, detail: str, *, event_id: str | None = None, tenant: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.event_id = event_id
        self.tenant = tenant


def encode(model: Model) -> bytes:
    """JSON in UTF-8, times as RFC 3339 ending in ``Z``."""
    return model.model_dump_json().encode()  # not by way of dictionaries: of a long transcript those are 10,000s


def decode_event(value: bytes | None) -> AudioEvent:
    """Read an audio event.

    Raises ContractError with ``invalid_json``, ``unsupported_version`` or ``invalid_event``.
    """
    try:
        data = orjson.loads(value or b"")
    except orjson.JSONDecodeError as error:
        raise ContractError(Reason.INVALID_JSON, f"the value is not JSON: {error}; publish an AudioEvent") from error
    if not isinstance(data, dict):
        said = f"the value is JSON, but {_kind(data)} and not an object; publish an AudioEvent"
        raise ContractError(Reason.INVALID_EVENT, said)
    event_id, tenant = _readable(data.get("event_id")), _readable(data.get("tenant"))
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ContractError(
            Reason.UNSUPPORTED_VERSION,
            f"schema_version {version!r} is not supported; this service reads version {SCHEMA_VERSION}",
            event_id=event_id,
            tenant=tenant,
        )
    try:
        return AudioEvent.model_validate(data)
    except ValidationError as error:
        raise ContractError(Reason.INVALID_EVENT, _first_fault(error), event_id=event_id, tenant=tenant) from error


def _kind(data: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(data), "a number")


def _readable(value: Any) -> str | None:
    return value[:128] if isinstance(value, str) and value else None


def _first_fault(error: ValidationError) -> str:
    # the offending value stays out of the text: it may be a signed address
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)]
    return "; ".join(faults[:3])


def decode_recognised(value: bytes) -> Recognised:
    """The recognised part of a dedup entry. Raises ContractError for what cannot be read."""
    try:
        return DedupEntry.model_validate_json(value)
    except ValidationError as error:
        raise ContractError(Reason.INVALID_EVENT, _first_fault(error)) from error
