"""Apple's push service (APNs): HTTP/2 with provider tokens."""
