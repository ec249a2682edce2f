"""The child that tells voices from other sounds: Silero's detector on onnxruntime, in one thread, without torch.

It listens to what energy alone is unsure of. It is neither in the service, which a fault in native code would end,
nor in the engine child, whose device would wait for it.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from consumer.core.hearing import Samples, Stretches, to_samples
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import DEAD_DB, FRAME_SAMPLES, frame_levels
from consumer.core.silence import SPEECH_PROBABILITY
from consumer.engines.wire import ChunkAsk
from consumer.workers.channel import Frame
from consumer.workers.child import Handler, serve

STEP_SAMPLES = 512
"""What the detector hears at once."""
LEAD_SAMPLES = 16 * STEP_SAMPLES
"""Half a second before a stretch is heard with it: the detector remembers, and must not begin in mid-word."""
USUAL_PEAK = 0.3
"""A brief stretch is made so loud: of faint words the detector misses a third (at -30 dB; measured), of these none."""
BRIEF_SAMPLES = 10 * SAMPLE_RATE
"""In a long one a voice shows itself anyhow; and of minutes of loud hiss some moment may sound like one."""


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
    lead = replace(ask, start=max(0, ask.start - LEAD_SAMPLES), stop=ask.start)
    start = ask.start - _alive_at_the_end(to_samples(lead.read()))
    sound = to_samples(replace(ask, start=start).read())
    whole = np.pad(_levelled(sound), (0, -len(sound) % STEP_SAMPLES))
    likely = np.ravel(detector(whole)) >= SPEECH_PROBABILITY
    edges = np.flatnonzero(np.diff(np.concatenate(([False], likely, [False])).astype(np.int8))) * STEP_SAMPLES + start
    found = np.clip(edges, ask.start, ask.stop).reshape(-1, 2).tolist()
    return tuple((first, last) for first, last in found if first < last)


def _alive_at_the_end(lead: Samples) -> int:
    """Samples from the last frame of a dead line on: behind one the detector hears a short word less well than with
    nothing before it. (Of words of 0.2 to 0.4 s it missed one in ten; hardly one so, and tones are taken for voices
    more seldom. Measured.)
    """
    dead = np.flatnonzero(frame_levels(lead[::-1]) < DEAD_DB)
    return int(dead[0]) * FRAME_SAMPLES if len(dead) else len(lead)


def _levelled(sound: Samples) -> Samples:
    """Without an offset, and if brief not too faint."""
    centred = sound - np.float32(sound.mean(dtype=np.float64))
    peak = float(np.abs(centred).max())
    brief_and_faint = len(sound) < BRIEF_SAMPLES and 0 < peak < USUAL_PEAK
    return centred * np.float32(USUAL_PEAK / peak) if brief_and_faint else centred


if __name__ == "__main__":
    serve(setup)
