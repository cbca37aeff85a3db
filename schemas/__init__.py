"""Schemas name things: what a message is, how it is written, and how it may change."""
