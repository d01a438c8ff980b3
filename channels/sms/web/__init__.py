"""SMS gateways that are spoken to over HTTP: Kannel's sendsms and its likes, Aliyun."""
