"""The dialects that there are, and those that this front end speaks."""

from penstock.errors import Misconfigured
from penstock.service.dialects.dialect import Dialect
from penstock.service.dialects.odata.dialect import ODATA
from penstock.service.dialects.openai.dialect import OPENAI
from penstock.settings import Settings

DIALECTS: tuple[Dialect, ...] = (ODATA, OPENAI)

NONE = "none"


def spoken(settings: Settings) -> tuple[Dialect, ...]:
    """Return the dialects that PENSTOCK_DIALECTS names: all if it is not set. Raises Misconfigured."""
    if settings.dialects is None:
        return DIALECTS
    chosen = [name.strip() for name in settings.dialects.split(",") if name.strip()]
    known = {dialect.name: dialect for dialect in DIALECTS}
    if chosen == [NONE]:
        return ()
    if unknown := [name for name in chosen if name not in known]:
        raise Misconfigured(
            f"PENSTOCK_DIALECTS has the unknown name {unknown[0]!r}. Use names of {', '.join(known) or 'no dialect'}, "
            f"separated by commas, or {NONE}."
        )
    return tuple(known[name] for name in dict.fromkeys(chosen))
