"""How dead letters look on a terminal and in a pipe. Whatever others wrote is made harmless first."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import IO, Any

from consumer.core.review import Action, Letter, LetterId, Mark, Row
from consumer.core.shown import preview, visible
from consumer.errors import EarwitnessError

_PIPED_COLUMNS = 400
"""Wide enough that nothing is cut short for a program or a file."""
_PLANNED_ROWS = 20
_DETAIL_CHARACTERS = 100
_PAYLOAD_CHARACTERS = 20_000


def table(rows: Sequence[Row], file: IO[str], *, marks: bool) -> None:
    """One line for each letter."""
    if not rows:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = ["id", "when", "reason", "tenant", "event id", "detail", "address", *(["handled"] if marks else [])]
    shape = Table(*names, box=None, pad_edge=False, header_style="bold")
    for column in shape.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    for narrow in ("id", "when", "reason"):
        shape.columns[names.index(narrow)].min_width = max(len(cell) for row in rows for cell in [_cells(row)[narrow]])
    for row in rows:
        cells = _cells(row)
        shape.add_row(*(Text(cells[name]) for name in names))
    console = Console(file=file, width=None if file.isatty() else _PIPED_COLUMNS, highlight=False)
    console.print(shape)


def _cells(row: Row) -> dict[str, str]:
    detail = visible(row.detail)
    if len(detail) > _DETAIL_CHARACTERS:
        detail = f"{detail[: _DETAIL_CHARACTERS - 1]}…"
    return {
        "id": str(row.id),
        "when": _time(row.failed_at),
        "reason": row.reason,
        "tenant": visible(row.tenant or "-"),
        "event id": visible(row.event_id or "-"),
        "detail": detail,
        "address": visible(row.address or "-"),
        "handled": _handled(row.mark),
    }


def counts(by_reason: Mapping[str, int], shown: int, file: IO[str]) -> None:
    """How many there are of each reason, and whether the list left some out."""
    total = sum(by_reason.values())
    if not total:
        print("no dead letters", file=file)
        return
    each = ", ".join(f"{count} {reason}" for reason, count in Counter(by_reason).most_common())
    older = f"; {total - shown} older ones are not shown (--limit)" if shown < total else ""
    print(f"\n{_letters(total)}: {each}{older}", file=file)


def letter(letter: Letter, mark: Mark | None, now: datetime) -> None:
    """Everything about one letter."""
    row, content = Row.of(letter, mark), letter.content
    lines: dict[str, str] = {
        "reason": row.reason,
        "detail": visible(row.detail),
        "event id": visible(row.event_id or "-"),
        "tenant": visible(row.tenant or "-"),
        "failed at": f"{_time(row.failed_at)} ({_ago(row.failed_at, now)} ago)",
        "attempts": str(row.attempts),
        "replays": f"this was replay {row.replays} of {letter.first}" if row.replays else "none before this failure",
        "handled": _handled(mark),
    }
    if content is not None:
        origin = content.origin
        at = _time_ms(origin.timestamp_ms)
        lines["origin"] = f"{visible(origin.topic)}/{origin.partition}/{origin.offset}, published {at}"
        lines["key"] = "none" if origin.key_base64 is None else _key(origin.key_base64)
        lines["headers"] = "\n".join(f"{visible(name)}: {preview(value)}" for name, value in letter.headers) or "none"
    body = letter.payload if content is not None else letter.record.value
    lines["event" if content is not None else "record"] = _payload(letter.fields, body)
    if mark is None:
        lines["next"] = f"earwitness dead-letters replay {row.id}\nearwitness dead-letters discard {row.id}"
    print(f"dead letter {row.id}")
    for name, text in lines.items():
        first, *more = text.split("\n")
        print("\n".join([f"{name:<10} {first}", *(f"{'':<10} {line}" for line in more)]))


def plan(rows: Sequence[Row], notes: Mapping[LetterId, str], action: Action, topic: str, *, fresh: bool) -> None:
    """What is about to be done, before anything is; on stderr."""
    table(rows[:_PLANNED_ROWS], sys.stderr, marks=False)
    if len(rows) > _PLANNED_ROWS:
        print(f"... and {len(rows) - _PLANNED_ROWS} more", file=sys.stderr)
    for id_ in [row.id for row in rows if notes.get(row.id)]:
        print(f"{id_} {visible(notes[id_])}", file=sys.stderr)
    each = ", ".join(f"{count} {reason}" for reason, count in Counter(row.reason for row in rows).most_common())
    if action is Action.REPLAYED:
        bytes_ = "with published_at set to now" if fresh else "as they were"
        will = f"their events are published again to {topic} {bytes_}, and the letters are marked as handled"
    else:
        will = "they are marked as handled, nothing is published"
    print(f"\n{_letters(len(rows))} ({each}): {will}.", file=sys.stderr)


class Progress:
    """Tells of each letter as it is certain, and how it all ended."""

    def __init__(self, action: Action) -> None:
        self._action = action
        self._done = self._already = self._failed = 0
        self.notes: dict[LetterId, str] = {}

    def note(self, id_: LetterId, text: str) -> None:
        """Something to be said of a letter before it is handled."""
        if text:
            self.notes[id_] = text

    def done(self, id_: LetterId, mark: Mark) -> None:
        """Handled just now."""
        self._done += 1
        print(f"{mark.action}  {id_}" + (f"  (replay {mark.replay})" if mark.replay else ""), flush=True)

    def already(self, id_: LetterId, mark: Mark) -> None:
        """Handled before: nothing is done again; a failure only if it was handled the other way."""
        same = mark.action is self._action
        self._already += same
        self._failed += not same
        print(f"{id_} is handled already: {_handled(mark)}", file=sys.stderr)

    def refused(self, id_: LetterId, why: str) -> None:
        """Left alone."""
        self._failed += 1
        print(f"{id_} is left alone: {visible(why)}", file=sys.stderr)

    def conclude(self) -> None:
        """Raises EarwitnessError if a letter was not handled as was asked."""
        said = [f"{self._done} {self._action}"]
        said += [f"{self._already} handled already"] if self._already else []
        if self._failed:
            raise EarwitnessError(", ".join([*said, f"{self._failed} not {self._action}"]))
        print(", ".join(said), file=sys.stderr)


def _payload(fields: Any, payload: bytes | None) -> str:
    if payload is None:
        return "not carried in this letter"
    if fields is None:
        return preview(payload)
    # ensure_ascii keeps whatever is in the strings from steering the terminal
    text = json.dumps(fields, indent=2, ensure_ascii=not json.dumps(fields, ensure_ascii=False).isprintable())
    left = len(text) - _PAYLOAD_CHARACTERS
    return text if left <= 0 else f"{text[:_PAYLOAD_CHARACTERS]}\n... {left} characters more"


def _key(key_base64: str) -> str:
    import base64

    try:
        return preview(base64.b64decode(key_base64, validate=True))
    except ValueError:
        return f"{visible(key_base64)} (not base64)"


def _handled(mark: Mark | None) -> str:
    if mark is None:
        return "no"
    which = f" (replay {mark.replay})" if mark.replay else ""
    return f"{mark.action} {_time(mark.at)}{which}"


def _letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"


def _time_ms(timestamp_ms: int) -> str:
    from datetime import UTC

    try:
        return _time(datetime.fromtimestamp(timestamp_ms / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_ms} ms"


def _ago(moment: datetime, now: datetime) -> str:
    seconds = max(0, round((now - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
