"""The service: audio events in, transcripts and metric events out. Start reading at `pipeline.py`."""
