"""The contract: what travels on the topics, shared by those who publish and those who consume.

Imports nothing of the service and does no I/O. Version 1: fields are added, never renamed.
"""
