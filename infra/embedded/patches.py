"""Patch moto in this process where deep queues make it slow, or where it differs from AWS in what Penstock relies on.

The patches change moto's internals, so they are applied only to the version they were written for: `FINGERPRINTS` are
hashes of its source. `python -m penstock.infra.embedded.patches` prints the fingerprints of the installed moto.
"""

import hashlib
import inspect
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

import moto

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

SUPPORTED_MOTO = "5.2.5"
FINGERPRINTS = {
    "moto.cloudwatch.models:CloudWatchBackend": "3fe7438c69771377",
    "moto.core.common_models:BaseModel": "c9c3cfdda1d3a82d",
    "moto.core.responses:BaseResponse": "f4fcc6eeaeda7007",
    "moto.core.serialize:ResponseSerializer": "6266dfddaa30faa3",
    "moto.core.utils:camelcase_to_underscores": "084cdc5bab92db95",
    "moto.core.utils:method_names_from_class": "9dbac89d082b655f",
    "moto.dynamodb.models.dynamo_type:Item": "0bfbb18c90ab3de4",
    "moto.dynamodb.models.table:Table": "09672fce9d219ae5",
    "moto.dynamodb.models.utilities:dynamo_to_dict": "80f600124c13ddcb",
    "moto.moto_server.werkzeug_app:DomainDispatcherApplication": "f85a1ab23d03b841",
    "moto.s3.models:FakeKey": "38cbad7c55b95b65",
    "moto.s3.responses:S3Response": "65c23446cc70c2f4",
    "moto.sqs.models:Message": "a6471a329358a203",
    "moto.sqs.models:Queue": "b5a48ab23b8f00c4",
    "moto.sqs.models:SQSBackend": "62d3a93a78172dc2",
    "moto.sqs.responses:SQSResponse": "7f5bcf1b99307e5f",
}


class UnknownMotoError(Exception):
    """The installed moto is not the version that the patches were written for."""


@cache
def patched_moto() -> "WSGIApplication":
    """Patch moto and return it as a WSGI application.

    Two threads must not call it at the same time: moto's counts would become wrong. Raises UnknownMotoError.
    """
    check_fit()
    # Import these after the check: in another version of moto, names that they import may not exist.
    from penstock.infra.embedded import cloudwatch, dynamodb, requests, s3, sqs  # noqa: PLC0415

    for module in (requests, sqs, dynamodb, cloudwatch, s3):
        for owner, name, patch in module.PATCHES:
            setattr(owner, name, patch)
    return requests.Dispatcher()


def reset_moto() -> None:
    """Delete every queue, table and bucket, as `POST /moto-api/reset` does."""
    from moto.moto_api._internal.models import moto_api_backend  # noqa: PLC0415 - after the check, as above

    moto_api_backend.reset()


def check_fit() -> None:
    """Raise UnknownMotoError if the source of anything that is patched, or that the patches use, has changed."""
    changed = [name for name, expected in FINGERPRINTS.items() if fingerprint(name) != expected]
    if changed:
        raise UnknownMotoError(
            f"The embedded AWS patches moto {SUPPORTED_MOTO}, but moto {moto.__version__} is installed, in which "
            f"{', '.join(changed)} are different. Install moto {SUPPORTED_MOTO} (`make setup` does this). "
            "To support the other version, compare the two, adapt infra/embedded/*.py, run "
            "tests/integration/test_embedded_aws.py, and copy the fingerprints that "
            "`python -m penstock.infra.embedded.patches` prints."
        )


def fingerprint(name: str) -> str:
    """Return a hash of the source of `module:name`. The source is read from its file, so a patch does not change it."""
    try:
        source = inspect.getsource(pkgutil.resolve_name(name))
    except (ImportError, AttributeError, OSError, TypeError):
        return "missing"
    return hashlib.sha256(source.encode()).hexdigest()[:16]


if __name__ == "__main__":
    print(*(f'    "{name}": "{fingerprint(name)}",' for name in FINGERPRINTS), sep="\n")  # noqa: T201
