"""Both engines over the same recordings, and metric events of it as the service would publish them."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError

from consumer.cli.hearing import Wanted, hear, settings_to_hear, wanted
from consumer.cli.publish import wanted_of
from consumer.core.shown import encodable
from consumer.errors import EarwitnessError, ReasonedError
from schemas.codes import Outcome, Route
from schemas.models import AudioEvent, EngineWordErrors, LatencySeconds, TranscriptionMetric, WordErrors, utc_now

if TYPE_CHECKING:
    from consumer.core.model import Heard
    from consumer.settings import Settings

Chosen = tuple[str | None, str | None]
"""An engine and its model; None: the configured one."""


def compare_recordings(
    ctx: typer.Context,
    sources: list[str],
    jsonl: Path | None,
    first: Chosen,
    second: Chosen,
    language: str | None,
    add: Callable[[TranscriptionMetric], None],
) -> dict[str, Any]:
    """Hear the recordings with one engine after the other, so that neither slows the other down, and add a metric for
    each that both have heard; how many those are.
    """
    events = [_event(item.source, item.fields, language) for item in wanted_of(sources, jsonl)]
    recordings = [wanted(event.uri, event.language) for event in events]
    settings = [_settings(ctx, recordings, chosen) for chosen in _both(ctx, first, second)]
    if len({(one.engine, one.api_model if one.engine == "openai" else one.model) for one in settings}) == 1:
        raise typer.BadParameter("that is one engine twice; name another one, or another model", param_hint="--against")
    ears = _Ears(recordings), _Ears(recordings)
    hear(settings[0], recordings, range(len(recordings)), ears[0])
    hear(settings[1], recordings, sorted(ears[0].found), ears[1])
    both = sorted(ears[1].found)
    for place in both:
        add(_metric(events[place], ears[0].found[place], ears[1].found[place]))
    without = sum(events[place].reference_text is None for place in both)
    return {"recordings": len(recordings), "compared": len(both), "without_reference": without}


def missing(told: dict[str, Any]) -> None:
    """Say what did not count. Raises EarwitnessError if a recording was not heard by both."""
    if without := told["without_reference"]:
        typer.echo(f"warning: {without} have no text beside them (NAME.txt): no WER for those", err=True)
    if failed := told["recordings"] - told["compared"]:
        raise EarwitnessError(f"{failed} of {told['recordings']} were not heard by both engines, and are not counted")


def _both(ctx: typer.Context, first: Chosen, second: Chosen) -> Iterable[Chosen]:
    from consumer.cli.context import settings_of

    configured = settings_of(ctx, engine=first[0])
    engine, model = second
    if engine is None and model is None:
        engine, model = configured.shadow_engine, configured.shadow_model
        if engine is None:
            raise typer.BadParameter("name the second engine, or set shadow_engine", param_hint="--against")
    return first, (engine or configured.engine, model)


def _settings(ctx: typer.Context, recordings: list[Wanted], chosen: Chosen) -> "Settings":
    # nobody stands in: whose words they are must be certain
    return settings_to_hear(ctx, recordings, *chosen, fallback="none")


def _event(source: str, fields: dict[str, Any], language: str | None) -> AudioEvent:
    """With the text that lies beside a file, unless the manifest has one."""
    beside = Path(source).with_suffix(".txt")
    found = {"event_id": source[-128:], "language": language, **fields}
    try:
        if found.get("reference_text") is None and beside.is_file():
            found["reference_text"] = beside.read_text(encoding="utf-8").strip()
        # the address is checked where it is fetched, and may be a path here
        return AudioEvent(**{**found, "uri": "file:///"}).model_copy(update={"uri": source})
    except (OSError, UnicodeDecodeError) as error:
        raise EarwitnessError(f"{beside} cannot be read: {error}") from error
    except ValidationError as error:
        raise EarwitnessError(f"{encodable(source)}: {error.errors()[0]['msg']}") from error


class _Ears:
    """What one engine made of the recordings; failures are told at once."""

    def __init__(self, recordings: list[Wanted]) -> None:
        self._names = [encodable(one.name) for one in recordings]
        self.found: dict[int, Heard] = {}

    def heard(self, place: int, digest: str, heard: "Heard", route: Route) -> None:  # noqa: ARG002 (one shape)
        self.found[place] = heard

    def failed(self, place: int, error: ReasonedError) -> None:
        print(f"earwitness: {self._names[place]}: {error.reason}: {error.detail}", file=sys.stderr, flush=True)


def _metric(event: AudioEvent, first: "Heard", second: "Heard") -> TranscriptionMetric:
    from consumer.engines.shadow import disagreement_between

    served_by, ref = first.recognised.engine, second.recognised.engine
    language = first.recognised.language or event.language
    counts = _word_errors(event, second, language)
    return TranscriptionMetric(
        event_id=event.event_id,
        tenant=event.tenant,
        outcome=Outcome.TRANSCRIBED,
        route=Route.POLICY,
        engine=served_by,
        audio_seconds=first.recognised.audio_seconds,
        language=language,
        latency_seconds=LatencySeconds(total=first.infer_seconds or 0.0, infer=first.infer_seconds),
        wer=_word_errors(event, first, language),
        shadow_wer=None if counts is None else EngineWordErrors(errors=counts.errors, words=counts.words, engine=ref),
        disagreement=disagreement_between(first, second, served_by, ref),
        attempts=[*first.attempts, *second.attempts],
        completed_at=utc_now(),
    )


def _word_errors(event: AudioEvent, heard: "Heard", language: str | None) -> WordErrors | None:
    from consumer.core.quality import word_errors

    if event.reference_text is None:
        return None
    return word_errors(event.reference_text, heard.recognised.text, language)
