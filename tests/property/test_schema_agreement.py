"""The published schemas and decoding accept the same messages, over mutations of valid ones.

Where they cannot agree is listed in `beyond_schema`, and case by case in tests/unit/test_schema.py.
"""

from __future__ import annotations

from typing import Any

from hypothesis import assume, event, given
from hypothesis import strategies as st

from hub.contract.decode import decode
from hub.contract.zones import zone_exists
from tests.support.examples import examples
from tests.support.messages import BY_KIND, LANE_OF, encode
from tests.support.schemas import accepted_by_decode, accepted_by_schema

# Values near the border of what some field takes; each is tried in every field.
NEAR: list[Any] = [
    *(None, True, False, 0, 9, 10, -1, 3, 2**63, 1.5, 1e300),
    *("", "a", "~", "~g", "a b", "A", "订单", "a\n", "x" * 64, "x" * 65, "x" * 128, "x" * 129),
    *("sms", "fax", "all", "first", "failed", "sent", "expired", "dnd.set", "forget", "cancel"),
    *("shop:a:1", "shop:a:0", "shop:" + "x" * 64 + ":9999", "category:", "channel:sms"),
    *("2026-11-21T08:00:00Z", "2026-11-21T08:00:00.5+08:00", "2026-11-21T08:00:00", "2026-11-21"),
    *("Asia/Shanghai", "x" * 256, "x" * 257, "+8613800000000"),
    *([], ["sms"], ["sms", "push"], ["sms", "sms"], ["fax"], [None], ["sms"] * 9),
    *({}, {"text": "x"}, {"text": 1}, {"sms": {}}, {"sms": "1"}, {"*": {}}, {"fax": {}}),
    *({"text": "x", "sms": {}}, {"sms": {"deep": [{}]}, "push": {"n": 1.5}}, {"sms": "x" * 257}),
]
NAMES = sorted({name for several in BY_KIND.values() for one in several for name in one})
VALUES = {
    name: [one[name] for several in BY_KIND.values() for one in several if name in one]
    for name in NAMES
}


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """(kind, object): a valid message with one to three fields changed, added or taken away."""
    kind = draw(st.sampled_from(sorted(BY_KIND)))
    fields = dict(draw(st.sampled_from(BY_KIND[kind])))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(fields) or NAMES) | st.sampled_from(NAMES))
        how = draw(st.sampled_from(["take away", "usual value", "usual value", "near", "any"]))
        if how == "take away":
            fields.pop(name, None)
        elif how == "usual value":
            fields[name] = draw(st.sampled_from(VALUES[name]))
        else:
            fields[name] = draw(st.sampled_from(NEAR) if how == "near" else st.text(max_size=5))
    return kind, fields


def beyond_schema(fields: dict[str, Any]) -> bool:
    """Whether this object has what only decoding can judge."""
    zone = fields.get("timezone")
    return isinstance(zone, str) and not zone_exists(zone)


@given(mutants())
@examples(200)
def test_schema_and_decoding_agree(mutant: tuple[str, dict[str, Any]]) -> None:
    kind, fields = mutant
    assume(not beyond_schema(fields))
    app = fields.get("app")
    source = app if isinstance(app, str) else "shop"  # only the subject knows whose message it is
    found = decode(LANE_OF[kind], source, encode(fields))
    valid = accepted_by_decode(found)
    event(f"{kind} {'accepted' if valid else 'refused'}")
    assert accepted_by_schema(kind, fields) is valid, found
