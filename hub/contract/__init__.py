"""The contract: wire types, subjects, decoding. Source: docs/contract.md."""
