"""OData's JSON `$batch`: `POST /$batch` runs a batch, and `/$batch/{batch_id}` is its monitor.

    request_object.py   the JSON of an individual request
    urls.py             its URL becomes the path of an operation
    translation.py      a whole batch becomes operations
    responses.py        outcomes become response objects
    errors.py           problems become OData errors
    headers.py          versions and preferences
    answers.py          what all answers have in common
    batch.py            POST /$batch
    monitor.py          GET and DELETE /$batch/{batch_id}
    dialect.py          what the HTTP program knows of all this

https://docs.oasis-open.org/odata/odata-json-format/v4.01/odata-json-format-v4.01.html has the format in its section 19.
"""
