"""The knobs of what is done for the texts' sake beside hearing them: corrections, and a second engine to compare."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class QualitySettings(BaseSettings):
    """A part of ``Settings``."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    refine_model: str | None = None
    """Chat model that corrects some transcripts (`refined_text`; `text` stays as heard); absent: none does."""
    refine_base_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None = None
    """Its OpenAI-compatible server; absent: `OPENAI_BASE_URL` with `OPENAI_API_KEY`, else the public API."""
    refine_api_key: str | None = Field(default=None, repr=False)
    """Key for `refine_base_url`, which never gets `OPENAI_API_KEY`; never printed."""
    refine_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Part of all recordings that is corrected, chosen by digest, so that a replay chooses the same."""
    refine_below_confidence: float = Field(default=0.5, ge=0.0, le=1.0)
    """Transcripts less sure than this are corrected too, as critical events are; engines measure it differently."""
    refine_input_usd_per_million_tokens: NonNegativeFloat | None = None
    """Price of what `refine_model` reads; needed with it, 0 for a server of one's own."""
    refine_output_usd_per_million_tokens: NonNegativeFloat | None = None
    """Price of what `refine_model` writes; needed with it."""
    refine_requests_per_minute: PositiveInt = 500
    """Requests to `refine_model`, for the whole group; who gets no turn within 20 s is published as heard."""
    refine_concurrency: PositiveInt = 8
    """Corrections under way at once, for the whole group (but one for each process that owns partitions)."""

    shadow_engine: Literal["ctc", "whisper", "ctranslate2", "openai", "simulated"] | None = None
    """A second engine that hears some recordings too, to be compared with the first; absent: none does."""
    shadow_model: str | None = None
    """Its model, hub id or local folder; for `openai` it is `api_model`."""
    shadow_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Part of all recordings that it hears, chosen by digest; each costs its price, and its event waits for it."""
    shadow_timeout_seconds: PositiveFloat = 30.0
    """How long an event waits for it; then it is published without a comparison."""

    @model_validator(mode="after")
    def _corrections_have_a_price(self) -> Self:
        prices = (self.refine_input_usd_per_million_tokens, self.refine_output_usd_per_million_tokens)
        if self.refine_model is not None and None in prices:
            raise ValueError(
                "refine_model needs refine_input_usd_per_million_tokens and refine_output_usd_per_million_tokens: "
                "without a price no budget could hold; set both, to 0 for a server of your own"
            )
        return self

    @model_validator(mode="after")
    def _a_shadow_has_a_model(self) -> Self:
        if self.shadow_engine in ("ctc", "whisper", "ctranslate2") and self.shadow_model is None:
            raise ValueError(f"shadow_engine {self.shadow_engine} needs shadow_model: a hub id or a local folder")
        return self
