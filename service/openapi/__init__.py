"""Describes the endpoints of a listener as OpenAPI 3.1, with the operations of the application.

There is a file for each family of endpoints. It has `paths` (or `paths_for_operators`), their `TAG`, the schemas of
their bodies (`REQUESTS`) and of their answers (`SCHEMAS`), and their `PARAMETERS`:

    submitting.py  POST /batch.
    batches.py     The list of batches, and what a client can ask of one batch.
    webhooks.py    Webhook endpoints and deliveries.
    keys.py        API keys.
    operators.py   Dead letters, limits, queues and metrics.
    health.py      Health checks, and the description itself.

They share `answers.py`, `headers.py`, `problems.py` and `values.py`. `examples.py` has an example of each body, and
`handlers.py` describes the operations of the application. `document.py` puts the families together, with the
components that they use. `serving.py` has the endpoints of the description.
"""
