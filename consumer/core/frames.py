"""How wav2vec2's convolutions cut samples into frames. Pure, and free of every library."""

FRAME_SAMPLES = 320
"""Between the starts of two frames: the product of the strides of wav2vec2's convolutions."""
FIELD_SAMPLES = 400
"""What one frame hears; also the shortest audio that has a frame."""


def frame_count(samples: int) -> int:
    """Frames of so many samples."""
    return 0 if samples < FIELD_SAMPLES else (samples - FIELD_SAMPLES) // FRAME_SAMPLES + 1
