"""Spans, logs and health."""
