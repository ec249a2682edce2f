"""The child that tells voices from other sounds: Silero's detector on onnxruntime, in one thread, without torch.

It listens to what energy alone is unsure of. It is neither in the service, which a fault in native code would end,
nor in the engine child, whose device would wait for it.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from consumer.core.hearing import Stretches, to_samples
from consumer.core.silence import SPEECH_PROBABILITY
from consumer.engines.wire import ChunkAsk
from consumer.workers.channel import Frame
from consumer.workers.child import Handler, serve

STEP_SAMPLES = 512
"""What the detector hears at once."""
LEAD_SAMPLES = 16 * STEP_SAMPLES
"""Half a second before a stretch is heard with it: the detector remembers, and must not begin in mid-word."""


def setup(_init: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    """Load the detector. Requests list stretches of files as ``chunks``; answers give the ``voices`` in each."""
    from faster_whisper.vad import get_vad_model

    detector = get_vad_model()
    detector(np.zeros(STEP_SAMPLES, np.float32))

    def handle(request: dict[str, Any], _payload: bytes) -> Frame:
        return {"voices": [voices(detector, ChunkAsk.from_wire(chunk)) for chunk in request["chunks"]]}, b""

    return {}, Handler(handle)


def voices(detector: Any, ask: ChunkAsk) -> Stretches:
    """Where in a stretch there is a voice, in samples of its file."""
    start = max(0, ask.start - LEAD_SAMPLES)
    sound = to_samples(replace(ask, start=start).read())
    whole = np.pad(sound, (0, -len(sound) % STEP_SAMPLES))
    likely = np.ravel(detector(whole)) >= SPEECH_PROBABILITY
    edges = np.flatnonzero(np.diff(np.concatenate(([False], likely, [False])).astype(np.int8))) * STEP_SAMPLES + start
    found = np.clip(edges, ask.start, ask.stop).reshape(-1, 2).tolist()
    return tuple((first, last) for first, last in found if first < last)


if __name__ == "__main__":
    serve(setup)
