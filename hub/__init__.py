"""The core of Tact: contract, policy, ledger. Imports neither Ray nor actors nor channels (`hub.service` excepted)."""
