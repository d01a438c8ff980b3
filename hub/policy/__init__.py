"""The policy: document, compiled rules, and `decide()`. Source: docs/policy.md."""
