"""The core of Tact: contract, policy, ledger.

Imports neither Ray nor actors nor channels, but for `hub.service`.
"""
