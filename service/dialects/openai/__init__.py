"""OpenAI's files, `/v1/files`, as OpenAI's own client libraries call them.

    dialect.py        its endpoints
    errors.py         errors as OpenAI writes them
    lines.py          a line of an input file, as an operation
    checking.py       all lines of an input file, with their errors
    form.py           the form of an upload, read as a stream
    upload.py         POST /v1/files
    files.py          what can be asked of a file
    input_file.py     what the catalog has of a file
    pages.py          pages of lists

Nothing here runs, stores or counts an operation. An input file is kept as it came, and as a file of operations that
the engine reads. The catalog has what only OpenAI's clients ask for.
"""
