"""OpenAI's files and batches: `/v1/files` and `/v1/batches`, as OpenAI's own client libraries call them.

    dialect.py        its endpoints
    errors.py         errors as OpenAI writes them
    lines.py          a line of an input file, as an operation
    checking.py       all lines of an input file, with their errors
    form.py           the form of an upload, read as a stream
    upload.py         POST /v1/files
    files.py          what can be asked of a file
    input_file.py     what the catalog has of a file
    batch_entry.py    what the catalog has of a batch
    wanted.py         the body of a request for a batch
    creation.py       POST /v1/batches
    repeating.py      the same request twice
    batches.py        what can be asked of a batch
    batch_object.py   a batch as OpenAI writes it
    outputs.py        the files with the outputs and the errors of a batch, which are rendered from its records
    output_list.py    their list
    output_lines.py   their lines
    pages.py          pages of lists

Nothing here runs, stores or counts an operation. An input file is kept as it came, and as a file of operations that
the engine reads. A batch is a batch of the engine with the same id. The catalog has what only OpenAI's clients ask for.
"""
