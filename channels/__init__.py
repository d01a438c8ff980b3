"""Providers and their protocols: everything that knows what is spoken outside the hub."""
