"""A WeCom server to try the hub with, without a corp: `python -m channels.wecom.fake`."""
