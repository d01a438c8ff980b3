"""SMPP 3.4 (issue 1.2): codec, session and provider."""
