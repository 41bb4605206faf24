"""Lossless coding: from frequencies to bytes and back. Knows no family, no codec, no file."""
