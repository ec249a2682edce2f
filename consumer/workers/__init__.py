"""Supervised child processes: decoding and recognition run in them, so that a crash ends a child, not the service."""
