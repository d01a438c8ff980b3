"""Every bound of SMS texts, with its name and its reason. The protocols have pages of their own.

Times are in the unit the name ends with; sizes without a unit are counts.
"""

KIB = 1024

PARTS = 255
"""Parts of one long message: the number of parts is one octet, in the header as in the TLV."""
SEGMENTS = 10
"""`max_segments` unless an account says otherwise: 670 characters of Chinese. What is longer is
refused, since every segment is paid for and most handsets stop showing longer ones as one."""

REASSEMBLY_MESSAGES = 1_000
"""Incomplete inbound messages of one account: a second of the busiest, and a bound for one that
sends first parts only."""
REASSEMBLY_BYTES = 1024 * KIB
"""Their payloads, with PART_BYTES for each part and each repeat of one."""
PART_BYTES = 256
"""What a part costs beside its payload: its token, key and place in the tables."""
REASSEMBLY_AGE_MS = 60_000
"""How long the first part waits for the last. Parts are confirmed only when the whole is stored:
longer would keep a peer waiting for longer than the usual 60 s before it repeats or disconnects."""

SIGNATURE_CHARS = (2, 12)
"""Shortest and longest signature that the vendors file."""
OPT_OUT_LINE_CHARS = (4, 60)
"""The line that tells the way out: not so short that a text holds it by chance, and it must leave
room for a message beside it in one segment."""
OPT_OUT_WORDS = 100
"""Words of an account beside the built-in ones."""
OPT_OUT_WORD_CHARS = 40
"""One of them."""
OPT_OUT_CHARS = 200
"""A longer text from a customer is no opt-out word, and is not looked at."""
MARKETING_CATEGORIES = 100
"""Categories that get the opt-out line."""

NUMBER_CACHE = 8_192
"""Numbers whose spelling is remembered, about 3 MiB when full: retries, receipts and answers of
those who were just written to. Reading a number anew takes 30 µs."""
NUMBER_CHARS = 40
"""A longer text is no number, and is not parsed: 15 digits, and room for spaces and hyphens."""
