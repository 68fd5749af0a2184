"""Claims that say the same of many things: one entry with a list `each` stands for an entry per item of it.

Every text of the entry may name an item's keys in braces, `{sae}`; a text that is nothing but one such name takes the
item's value as it is, so that numbers stay numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NAMED = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


def expand(claims: Any) -> Any:
    """The list of claims with every `each` written out; what is no list of mappings is left for the schema to refuse.

    Raises:
        ValueError: `each` is no list of mappings, or a text names what an item does not have.
    """
    if not isinstance(claims, list):
        return claims
    out = []
    for claim in claims:
        if not isinstance(claim, Mapping) or "each" not in claim:
            out.append(claim)
            continue
        template = {k: v for k, v in claim.items() if k != "each"}
        items = claim["each"]
        if not isinstance(items, list) or not items or not all(isinstance(x, Mapping) for x in items):
            raise ValueError(f"claim {claim.get('id')!r}: key 'each': must be a list of mappings")
        out += [_filled(template, item, str(claim.get("id"))) for item in items]
    return out


def _filled(value: Any, item: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _filled(v, item, where) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(x, item, where) for x in value]
    if not isinstance(value, str):
        return value
    missing = [name for name in NAMED.findall(value) if name not in item]
    if missing:
        raise ValueError(f"claim {where!r}: names {{{missing[0]}}}; its 'each' has {', '.join(item)}")
    whole = NAMED.fullmatch(value)
    return item[whole[1]] if whole else NAMED.sub(lambda found: str(item[found[1]]), value)
