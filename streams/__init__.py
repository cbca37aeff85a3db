"""Streams move bytes: they carry events through processors and know no domain."""
