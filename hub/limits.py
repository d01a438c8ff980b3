"""Every bound of the hub, with its name and its reason.

A queue, batch, retry, cache or payload without a line here is a bug. Times are in the unit the name
ends with; sizes without a unit are counts.
"""

KIB = 1024
MIB = 1024 * KIB

# --- what the world may send (contract) -------------------------------------------------------
MESSAGE_OBJECT_BYTES = 64 * KIB
"""One intent, receipt, inbound or command. Stated by the contract."""
ARRAY_OBJECTS = 256
"""Objects in one message. Stated by the contract."""
MESSAGE_BYTES = 1 * MIB
"""One NATS message: the server's `max_payload`; an array is also bounded by it."""
ID_CHARS = 64
ADDRESS_CHARS = 1_024
"""The longest are subscriptions of browsers: an endpoint of some hundred and two keys."""
DEVICES = 10
"""Push addresses remembered of one customer; of more, those seen longest ago are forgotten."""
COPIES = 256
"""Dispatches to several devices of which each device's word is remembered, newest first; of older
ones the first device speaks for all. Some 100 bytes each."""
ROUTE_CHANNELS = 8
COLLAPSE_KEY_CHARS = 128
GROUP_MEMBERS = 2_000
"""Members of a group chat named in one command: what the largest group may have."""
GROUP_NAME_CHARS = 50
TRACE_CHARS = 256
REASON_CHARS = 300
"""A reason quotes at most this much, so that bad input is not amplified into the ledger."""
REJECTED_ID_CHARS = 128
"""An id that is too long is named in its rejection up to here: the longest valid one."""
NESTING = 32
"""Arrays and objects inside one another in free-form content. Common decoders stop at 64, and a
delivery adds levels of its own."""
SALVAGE_STEPS = 16_384
"""Brackets and commas looked at to find the good objects beside a bad one: an array of 256 with 64
each, 30 ms at worst."""
TIME_MS_MAX = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write."""

# --- one conversation --------------------------------------------------------------------------
REMEMBER_MS = 24 * 3_600_000
"""How long an (app, id) is remembered for `duplicate`. At least 24 h by the policy."""
REMEMBERED_IDS = 8_192
"""Ids remembered for one conversation in REMEMBER_MS: 12 bytes each, all rewritten by a turn that
touches it. One customer with more intents a day is a loop in an application: `rejected`."""
CONVERSATION_FULL_BYTES = 192 * KIB
"""A packed conversation this large takes no more intents: about 1,000 held. They are `rejected`."""
HELD_BYTES = 1 * MIB
"""Bodies held for one conversation: what one wake-up or command may release at once."""
RELEASED_DELIVERIES = 1_000
"""Deliveries that one wake-up or command releases at once; the rest follows in the next turns."""
RELEASED_URGENT = 8
"""Urgent ones of them, each a message of its own. Eight, and those of one intent for ten devices,
still fit BATCH_MESSAGES beside ARRAY_ENTRIES."""
SENDS = 2_048
"""Dispatches remembered for one conversation. Twice the largest cap limit, so that dropping the
oldest could only matter to a cap after 1,000 failed receipts."""
SEND_MEMORY_MS = 7 * 24 * 3_600_000
"""A dispatch is remembered at least this long, for its receipts: the lifetime of a delivery."""
CAP_LIMIT = 1_000
"""The largest `limit` of a cap."""
ADDRESSES = 16
DND_SCOPES = 64
CONVERSATION_ACCOUNTS = 32
"""Accounts of ours that one customer writes to and of which windows and waiting are remembered; of
more, those she wrote to longest ago are forgotten: her window there is closed until she writes."""
REPLIES_REMEMBERED = 256
"""Reply rules of which one conversation remembers when they answered: as many as a policy has."""
LOOK_AHEAD_MS = 366 * 24 * 3_600_000
"""How far ahead next_eligible_at is searched. Stated by the policy."""
LOOK_AHEAD_STEPS = 2_000
"""Moments asked in one search; a year of nightly windows and hourly gaps stays below it."""

# --- the policy document ------------------------------------------------------------------------
POLICY_BYTES = 1 * MIB
POLICY_RULES = 256
WORDS_FILE_BYTES = 512 * KIB
"""One file of `[[words]]`. With the policy it must stay below POLICY_BYTES: it is carried along."""
WORDS_FILE_CHARS = 256
"""The name of such a file."""
POLICY_WORDS = 20_000
"""Words of all rules of words: an automaton of some MB in each host, made in less than a second."""
WORD_CHARS = 64
"""One word, after normalisation."""
WORDS_PIECE_CHARS = 4_096
"""Text that is searched for words at once. All matches of a piece are in memory together."""
REPLY_WORDS = 256
"""Words of one `[[replies]]`: each is looked for in a customer's message by itself."""
REPLY_BYTES = 16 * KIB
"""The answer of one `[[replies]]`, as JSON: it is part of every delivery."""
WINDOW_MS = 366 * 24 * 3_600_000

# --- the turn -----------------------------------------------------------------------------------
TURN_INTENTS = 4_096
"""Objects decided in one turn. Larger turns gain nothing once the commit's fixed cost is shared."""
TURN_SLICE = 64
"""Messages decided between two looks at the event loop and the urgent lane."""
TURN_BULK_BESIDE_URGENT = 12
"""Normal and bulk objects in a turn while the urgent lane is busy: keeps commits short. With 64 the
p99 of 2,000 urgent intents a second beside a backlog was 27 ms, with 24 it was 24 and with 12 it is
21, and the backlog took 16, 20 and 21 s."""
URGENT_RECENT_S = 1.0
"""How long after an urgent message turns are still kept short."""
TURN_STATE_BYTES = 256 * KIB
"""Packed states one turn may rewrite in one partition before it takes nothing more."""
RECORD_STATE_BYTES = 768 * KIB
"""And within one array more: with one more conversation a log record still fits MESSAGE_BYTES."""
TURN_PAYLOAD_BYTES = 2 * MIB
"""Intake payload decided, and bodies released, in one turn before it takes nothing more."""
RELEASED_BYTES = 4 * MIB
"""Bodies that one array of commands may release: the rest of the array is `rejected`."""
TURN_URGENT = 128
"""Urgent deliveries in one turn, each a message of its own. With one more full array of combined
sends (256 intents on 3 channels) the batch still fits BATCH_MESSAGES."""
TURN_MESSAGES = 200
"""What one partition may have for a batch before a turn takes no more: urgent deliveries, subjects
(an outcome subject an application, a delivery subject a channel and partition of accounts), parked
blocks and full arrays. The last message may add 256 urgent combined sends on 3 channels: 768."""
RECORDS_ALONE = 4
"""Log records of a turn that decided nothing to be told, committed each by itself: the server keeps
an atomic batch in files of its own until it is whole, which takes as long as some plain writes."""
BATCH_MESSAGES = 1_000
"""Messages in one atomic batch. The server's limit (ADR-50)."""
BATCH_BYTES = 16 * MIB
"""Payload of one atomic batch: bounds the server's staging and the commit's duration."""
ARRAY_BYTES = 256 * KIB
"""Payload of one array of outcomes or deliveries; consumers get it in one piece."""
PARKED_BLOCK_BYTES = 64 * KIB
"""Bodies parked in one message. Small enough that few releases fetch it all in vain."""
BODY_CACHE_BYTES = 32 * MIB
"""Parked bodies a host keeps in memory, newest first; older ones are read from the ledger."""
BODY_FETCH_SUBJECTS = 1_000
"""Subjects in one multi-get. The server allows 1,024 (ADR-31)."""
PARKED_GRACE_S = 24 * 3_600
"""A parked body outlives its intent by this: a hub that was down can still release in time."""
PARKED_TTL_MAX_S = 100 * 366 * 24 * 3_600
"""The server adds a TTL to its clock in nanoseconds of 64 bits: an intent that expires in the year
9999 would overflow, and its body be gone at once."""
WAKES_PER_TURN = 1_000
ARRAY_ENTRIES = 980
"""What one partition may have for a batch before an array of intents takes no more: the rest of it
is `rejected`. Only urgent combined sends from hundreds of accounts with a live feed come here."""
DELIVERY_TTL_S = 7 * 24 * 3_600
OUTCOME_TTL_S = 7 * 24 * 3_600
EVENT_TTL_S = OUTCOME_TTL_S

# --- reading the intake -------------------------------------------------------------------------
READ_AHEAD_MESSAGES = 2_048
"""Messages one lane buffers in a host."""
READ_AHEAD_BYTES = 16 * MIB
PULL_BATCH = 512
"""Messages asked of the server in one request."""
PULL_EXPIRES_S = 60
"""A request that finds nothing waits this long at the server, then is renewed."""
PULL_HEARTBEAT_S = 5
"""While it waits, the server says so this often."""
PULL_SILENCE = 2
"""Heartbeat times without a word after which a consumer is taken for lost."""
WIRE_OPEN_S = 5
"""Making the connection INTAKE is read over, from the first packet to the first PONG."""
CONSUMER_INACTIVE_S = 30
"""The server drops a consumer whose host has not asked for so long."""

# --- the ledger ---------------------------------------------------------------------------------
PING_INTERVAL_S = 10
"""A connection that is silent for about three of these is dead and is made anew."""
COMMIT_TIMEOUT_S = 5.0
COMMIT_RETRIES = 60
"""Tries of one commit before the host gives its partitions up: about two minutes of backoff."""
COMMIT_SLICE = 64
"""Messages of a batch sent between two looks at the event loop."""
BACKOFF_FIRST_MS = 20
BACKOFF_MAX_MS = 2_000
READ_PAGE_MESSAGES = 1_000
READ_PAGE_BYTES = 4 * MIB
"""One direct get: what a reader holds at once, and what a slow consumer may have to buffer."""
CLAIM_TRIES = 3
"""Claims lost to a former owner that goes on committing before it is stopped by a knock."""
LOG_RECORDS = 10_000_000
"""Records replayed by one claim; a snapshot is due long before."""
SNAPSHOT_CHUNK_BYTES = 512 * KIB
SNAPSHOT_LOG_BYTES = 8 * MIB
"""Log written since the last snapshot before the next is taken (or twice the state, if larger)."""
JANITOR_INTERVAL_S = 10.0
INTAKE_BYTES = 8 * 1024 * MIB
"""Default size of INTAKE. Full means publishers are refused, never that something is dropped."""
LEDGER_BYTES = 32 * 1024 * MIB
SNAPSHOTS_BYTES = 8 * 1024 * MIB
DUPLICATE_WINDOW_S = 120
"""How long INTAKE itself refuses a repeated Nats-Msg-Id; the server remembers every id so long."""
SYNC_QUIET_S = 0.5
"""Silence after which all servers of a cluster have said how they sync."""
PARTITIONS = 16
"""Default number of conversation partitions; fixed when the streams are created."""
PARTITIONS_MAX = 256

# --- clients and operators ----------------------------------------------------------------------
PUBLISH_IN_FLIGHT = 512
"""Messages of one client without an answer. The server drops what a flood adds to its queue."""
PUBLISH_WAITING_OBJECTS = 8_192
"""Objects of one client that are sent or wait to be grouped; then `publish` waits."""
PUBLISH_WAITING_BYTES = 16 * MIB
PUBLISH_TIMEOUT_S = 2.0
PUBLISH_PATIENCE_S = 30.0
"""How long a client tries one message. Well inside DUPLICATE_WINDOW_S, so that no try is stored
beside another."""
OUTCOME_PULL_MESSAGES = 64
"""Outcome messages a client holds unacknowledged: at most 16 MiB (ARRAY_BYTES each)."""
OUTCOME_REFUSALS = 8
"""Refusals in a row before a reader of outcomes is told. One may be a consumer half deleted."""
OUTCOME_ACK_WAIT_S = 30
"""After so long without a sign of life of its reader an outcome message is given out again."""
ASK_TIMEOUT_S = 5.0
TRACE_MESSAGES = 200_000
"""Outcome messages `tact trace` reads at most."""
AUDIT_MESSAGES = 2_000_000
"""Messages of one stream that an audit reads into memory: some GB, for a test machine."""
AUDIT_PULL = 1_000
"""Messages an audit asks of the server in one request; two are under way."""

# --- the embedded nats-server -------------------------------------------------------------------
MESSAGE_HEADER_BYTES = 64 * KIB
"""Room for headers: the server's `max_payload` counts headers and payload together."""
NATS_STORE_BYTES = INTAKE_BYTES + LEDGER_BYTES + SNAPSHOTS_BYTES + 8 * 1024 * MIB
"""What its streams may reserve or use: ours, and room for one that an operator adds."""
NATS_START_S = 120.0
"""Until it accepts connections. After an unclean end it reads its streams through first."""
NATS_STOP_S = 20.0
"""Between SIGTERM and SIGKILL."""
NATS_RESTARTS = 20
"""Restarts in a row that did not last NATS_STEADY_S before a person is called: about 40 s."""
NATS_STEADY_S = 30.0
PROCESSES_REMEMBERED = 256
"""Process incarnations whose counters are kept apart; those silent longest are added up."""
