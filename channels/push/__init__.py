"""The push channel: apps, browsers, vendors, and signed webhooks. Source: docs/push.md, ADR 10."""
