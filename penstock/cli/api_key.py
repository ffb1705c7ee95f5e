"""The key that commands send to the server. Loading the settings of the programs for it takes a third of a start."""

import os
import re

from penstock.errors import Misconfigured

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def read_client_key() -> str | None:
    """Return the key in PENSTOCK_API_KEY. Raises Misconfigured if it cannot be sent."""
    given = os.environ.get("PENSTOCK_API_KEY")
    if not given:
        return None
    text = given.strip()
    if not _TOKEN.fullmatch(text):
        raise Misconfigured("PENSTOCK_API_KEY has a character that no key has. Set it to the key as you got it.")
    return text
