"""The HTTP program: it accepts batches and reports on them. `routes.py` shows all its endpoints on one page.

    intake/        POST /batch: reads and validates a batch, then runs it or accepts it for the background.
    batches/       What a client asks about one batch: status, results, cancel, retry.
    events/        GET /batch/{id}/events: tells a client that watches a batch what has changed.
    limits/        How much a caller may submit: quotas of operations.
    operators/     What operators and machines ask: dead letters, API keys, health, metrics.
                   All but health is on a listener of its own. If requests need a key, clients' listener has it, too.
    webhooks/      What a tenant can do with webhooks: make endpoints, and see what was delivered to them.
    console/       The pages: for people who have sent a file, and for operators.
    openapi/       GET /openapi.json: describes all these endpoints.
    dialects/      The formats of other APIs that clients can speak: a folder for each, which only translates.

`access.py` decides who may use an endpoint.

`app.py`, `routes.py` and `__main__.py` import the rooms. The rooms import the other files of this folder,
never the other way round. Some rooms import others: `intake` imports `batches`, because it answers a repeated request
with the batch's status, and both import `limits`, because they charge what runs. `events` imports `batches`, because it
tells what a client could ask there. `console` imports the rooms whose answers its pages show. `openapi` imports every
room whose endpoints it describes.
"""
