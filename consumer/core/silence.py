"""The silence gate: which stretches of a recording no model is asked about. Pure.

Energy is asked first, since it costs next to nothing. It is sure of silence where all is too faint to be heard, and
of speech where levels swing as those of speech do; what is left (hiss, hum, tones, faint voices, music) is doubtful,
and a voice detector decides. A stretch goes only if it is long, and never up to the words beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from consumer.core import pauses
from consumer.core.hearing import Stretches
from consumer.core.model import SAMPLE_RATE
from consumer.core.pauses import DEAD_DB, FRAME_SAMPLES, SILENCE_DB, Levels

SHORTEST_SECONDS = 2.0
"""Silence of less is left where it is: speech has such pauses, and models use them."""
MARGIN_SECONDS = 0.3
"""What is kept of the silence on either side of speech, so that no word is cut."""
SPEECH_PROBABILITY = 0.3
"""From here on the detector hears a voice. (Words cut out of speech, in noise, peak above 0.4; hiss and hum below
0.2, measured with Silero v6.)"""

_PIECE_SECONDS = 10.0
_GAP_SECONDS = 0.1
_SURE_SECONDS = 1.0
_SPEECH_SWING_DB = (15.0, 32.0)
"""How far the loud tenth of speech lies above its quiet tenth; read speech 22 to 27 (measured). Hiss,
tones and most music swing less, beats more."""

Frames = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ByEnergy:
    """What energy alone says of a recording's frames of 10 ms; the rest of them is silent."""

    speech: Frames
    doubtful: Stretches
    """In samples; a voice detector must hear these."""


def by_energy(levels: Levels) -> ByEnergy:
    """Sort a recording's frames into silent, speech, and doubtful ones."""
    speech, unheard = np.zeros(len(levels), bool), np.ones(len(levels), bool)
    for start, stop in pauses.runs(levels < SILENCE_DB, SHORTEST_SECONDS):
        unheard[start:stop] = False
    faint = np.zeros(len(levels), bool)
    for pause in pauses.find_pauses(levels, SHORTEST_SECONDS):
        faint[pause.start // FRAME_SAMPLES : pause.stop // FRAME_SAMPLES] = True
    for start, stop in _pieces(unheard & ~faint):
        speech[start:stop] = _swings_like_speech(levels[start:stop])
    # no part of a doubtful stretch: behind a dead line the detector misses short words
    for start, stop in pauses.runs(levels < DEAD_DB, _GAP_SECONDS):
        unheard[start:stop] = False
    doubtful = tuple((a * FRAME_SAMPLES, b * FRAME_SAMPLES) for a, b in pauses.runs(unheard & ~speech))
    return ByEnergy(speech, doubtful)


def left_out(energy: ByEnergy, voices: Stretches, total: int) -> Stretches:
    """What no model need hear of ``total`` samples, given where in the doubtful stretches there are voices.

    All of it if nobody speaks at all.
    """
    speech = energy.speech.copy()
    for start, stop in voices:
        speech[start // FRAME_SAMPLES : -(-stop // FRAME_SAMPLES)] = True
    if not speech.any():
        return ((0, total),) if total else ()
    margin, frames = round(MARGIN_SECONDS * SAMPLE_RATE) // FRAME_SAMPLES, len(speech)
    gone = [
        (start + margin * (start > 0), stop - margin * (stop < frames))
        for start, stop in pauses.runs(~speech, SHORTEST_SECONDS)
    ]
    return tuple((start * FRAME_SAMPLES, min(stop * FRAME_SAMPLES, total)) for start, stop in gone)


def _pieces(sounding: Frames) -> Iterator[tuple[int, int]]:
    """Runs of frames in equal pieces of at most 10 s, so that speech in one does not vouch for music after it."""
    for start, stop in pauses.runs(sounding):
        count = -(-(stop - start) * FRAME_SAMPLES // round(_PIECE_SECONDS * SAMPLE_RATE))
        edges = [start + (stop - start) * index // count for index in range(count + 1)]
        yield from pairwise(edges)


def _swings_like_speech(levels: Levels) -> bool:
    sounding = levels[levels >= SILENCE_DB]  # digital silence between sounds says nothing of them
    if len(sounding) * FRAME_SAMPLES < _SURE_SECONDS * SAMPLE_RATE:
        return False
    quiet, loud = np.percentile(pauses.smoothed(sounding), (10, 90))
    return bool(_SPEECH_SWING_DB[0] <= loud - quiet <= _SPEECH_SWING_DB[1])
