"""Publishes audio events: a library and a command."""
