"""Example values made from JSON Schemas, for the reference page. Pure: schemas in, values out."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

DEPTH_MAX = 6
_ID = "01JZ8QK0Y3V5N6W7X8Z9A0B1C2"
# What the words of the API look like; a name that is not here gets a value of its type.
_BY_NAME: dict[str, Any] = {
    "card": f"card_{_ID}",
    "merchant": f"mer_{_ID}",
    "connector": "humo",
    "slug": "limit-exceeded",
    "operation": "purchase",
    "status": "succeeded",
    "scheme": "humo",
    "amount": 150000000,
    "amount_received": 150000000,
    "amount_capturable": 0,
    "amount_refunded": 0,
    "total_debit": 150000000,
    "total_credit": 148320000,
    "total": 1680000,
    "payer": "receiver",
    "plan": "purchase",
    "version": 1,
    "currency": "UZS",
    "capture": "automatic",
    "description": "lunch",
    "purpose": "07",
    "source": {"card": f"card_{_ID}"},
    "destination": {"merchant": f"mer_{_ID}"},
    "metadata": {"order": "1001"},
    "phone": "+998901234567",
    "pan": "8600000000000015",
    "expiry": "29-07",
    "code": "A7K2Q9",
    "device_id": "3f1c9d52",
    "device_name": "Pixel 9",
    "grant_type": "urn:oqim:params:oauth:grant-type:otp",
    "reason": "returned",
    "rrn": "526014000123",
    "approval_code": "012345",
    "outcome_source": "reply",
    "bin": "860000",
    "last4": "0015",
    "limit": 20,
    "state": "captured",
    "decline": None,
    "next_action": None,
    "next_cursor": None,
    "quote_id": None,
}
# Whose id it is, by the beginning of the schema's name or of the path's segment before it.
_OWNERS = {
    "attempt": "att_",
    "card": "card_",
    "challenge": "chl_",
    "event": "evt_",
    "merchant": "mer_",
    "proposal": "prp_",
    "refund": "rfd_",
    "session": "ses_",
    "user": "usr_",
    "webhook": "whk_",
}
_PREFIXES = {
    "challenge_id": "chl_",
    "session_id": "ses_",
    "payment_id": "pay_",
    "request_id": "req_",
    "user_id": "usr_",
}


def sample(schema: Schema, components: Mapping[str, Schema], name: str = "", depth: int = 0) -> Any:
    """Return a value of the schema.

    Args:
        components: what references lead to.
        name: of the member the value is for; the API's own words have values of their own.
    """
    if "$ref" in schema:
        title = schema["$ref"].rpartition("/")[2]
        # The title names whose id is meant.
        return sample({"title": title, **components[title]}, components, name, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    known = _known(schema, name)
    if known is not ...:
        return known
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return sample(choices[0], components, name, depth)
    if schema.get("type") == "array":
        is_deep = depth >= DEPTH_MAX
        return [] if is_deep else [sample(schema.get("items", {}), components, "", depth + 1)]
    if schema.get("type") == "object":
        return _object(schema, components, depth)
    return _scalar(schema, name)


def _known(schema: Schema, name: str) -> Any:
    """Return the value that a name stands for, where it is of the schema's type, else `...`."""
    if name in _PREFIXES:
        return _PREFIXES[name] + _ID
    if name.endswith("_at"):
        return "2026-03-02T09:30:00+05:00"
    value = _BY_NAME.get(name, ...)
    if value is ...:
        return ...
    types = {one.get("type") for one in (schema, *schema.get("anyOf", ()))}
    wanted = {type(None): "null", int: "integer", str: "string", dict: "object"}[type(value)]
    return value if wanted in types else ...


def _object(schema: Schema, components: Mapping[str, Schema], depth: int) -> dict[str, Any]:
    if depth >= DEPTH_MAX:
        return {}
    members = {
        name: sample(one, components, name, depth + 1)
        for name, one in schema.get("properties", {}).items()
    }
    if isinstance(members.get("id"), str):
        members["id"] = id_of(schema.get("title", ""))
    return members


def id_of(owner: str) -> str:
    """Return an id such as the owner's: a schema's name, or a collection's in a path."""
    for word, prefix in _OWNERS.items():
        if owner.lower().startswith(word):
            return prefix + _ID
    return f"pay_{_ID}"


def _scalar(schema: Schema, name: str) -> Any:
    if "default" in schema:
        return schema["default"]
    type_ = schema.get("type")
    if type_ == "integer":
        return schema.get("minimum", 1)
    if type_ == "number":
        return float(schema.get("minimum", 1))
    return {"boolean": True, "null": None, "string": name or "text"}.get(str(type_))
