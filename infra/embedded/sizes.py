"""What the embedded AWS accepts. Imports nothing, so that `up` can read it without moto."""

MAX_UPLOAD_BYTES = 256 * 1024 * 1024  # of a file in S3: it is held in memory several times while it is received
MAX_BODY_BYTES = MAX_UPLOAD_BYTES + 1024 * 1024  # with the other fields of its form
