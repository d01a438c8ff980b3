"""The streams. The only package that imports nats."""
