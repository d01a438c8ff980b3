"""WeCom: managed accounts that talk with members and customers."""
