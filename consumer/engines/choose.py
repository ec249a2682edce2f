"""Which engines the settings ask for, and what of them decides the text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from consumer.core.event import fingerprint
from consumer.core.model import Engine
from consumer.engines.hybrid import HybridEngine
from consumer.engines.local import LocalEngine
from consumer.engines.openai_api import OpenAIEngine
from consumer.engines.served import BatchReport
from consumer.engines.silence_gate import WHISPER_ENGINES, has_gate
from consumer.engines.simulated import SimulatedEngine
from consumer.engines.watch import BatchWatch
from consumer.errors import ServiceError
from consumer.settings import Settings


def choose_engine(settings: Settings, observe: Callable[[BatchReport[Any]], None] = lambda _: None) -> HybridEngine:
    """The configured engine, with the API behind it if the settings say so; not started yet.

    ``observe`` is told of every batch of a model of our own.
    Raises ServiceError for a model that is a folder's path where no folder is.
    """
    primary = _new_engine(settings, observe)
    fallback = OpenAIEngine(settings) if settings.fallback == "openai" and settings.engine != "openai" else None
    return HybridEngine(primary, fallback, settings)


def choose_shadow(settings: Settings, serving: HybridEngine) -> Engine | None:
    """The engine that some recordings are compared by, not started yet; or the API engine that ``serving`` has, since
    the limits hold for all that is asked of the API. Raises ServiceError for one that would only repeat the first.
    """
    if settings.shadow_engine is None:
        return None
    chosen = {"engine": settings.shadow_engine, "model": settings.shadow_model or settings.model}
    is_same = settings.shadow_engine == settings.engine and settings.engine != "simulated"
    if is_same and (settings.engine == "openai" or settings.shadow_model == settings.model):
        raise ServiceError("shadow_engine is the engine that serves, with its own model: name another one, or none")
    if settings.shadow_engine == "openai" and serving.api is not None:
        return serving.api
    # its batches are no load of the engine that serves, and yet a part of their events' traces
    drawn = BatchWatch("simulated" if settings.shadow_engine == "simulated" else chosen["model"])
    return _new_engine(settings.model_copy(update=chosen), drawn)


def _new_engine(settings: Settings, observe: Callable[[BatchReport[Any]], None]) -> Engine:
    match settings.engine:
        case "simulated":
            return SimulatedEngine(settings, observe=observe)
        case "openai":
            return OpenAIEngine(settings)
        case _:
            _demand_model(settings.model)
            return LocalEngine(settings, observe=observe)


def _demand_model(model: str) -> None:
    # a hub id has one slash at most; the hub would only complain of the id's form
    is_path = model.startswith(("/", ".", "~")) or model.count("/") > 1
    if is_path and not Path(model).is_dir():
        raise ServiceError(
            f"model {model}: there is no such folder; set model to a folder that holds the model's files (absolute, or "
            "as seen from where the service is started), or to a hub id such as facebook/wav2vec2-large-960h"
        )


def profile_of(settings: Settings) -> Callable[[str | None], str]:
    """The fingerprint of the wanted profile for a language: it names the primary engine, whoever then serves.

    Corrections are no part of it: see ``consumer.core.refine.unless_stale``.
    """
    model = {"openai": settings.api_model, "simulated": "simulated"}.get(settings.engine, settings.model)
    revision = settings.model_revision if settings.engine not in ("openai", "simulated") else None

    options = _text_options(settings)

    def of(language: str | None) -> str:
        return fingerprint(settings.engine, model, revision, settings.compute_type, language, "transcribe", *options)

    return of


def _text_options(settings: Settings) -> list[str]:
    """What else of the settings decides the text; nothing for a default, so that keys of old entries stay good."""
    options = []
    if settings.engine in WHISPER_ENGINES:
        options += ["word_times"] if settings.word_times else []
        options += [f"prompt={settings.whisper_prompt}"] if settings.whisper_prompt else []
        options += [] if has_gate(settings) else ["no_gate"]
    elif settings.engine == "ctc" and has_gate(settings):
        options.append("gate")
    return options
