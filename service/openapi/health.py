"""Describes the health checks and the description itself."""

from penstock.service.content import JSON
from penstock.service.openapi.answers import REJECTED, answer, answers_of, endpoint, problems
from penstock.service.openapi.values import TEXT, Fragment, object_of

TAG: Fragment = {
    "name": "Service",
    "description": "Health checks for load balancers, and the description of the API. They need no key.",
}


def paths() -> Fragment:
    return {
        "/health/live": {"get": endpoint("checkLiveness", "Liveness of this front end", answers_of(200, "Health"))},
        "/health/ready": {
            "get": endpoint(
                "checkReadiness", "Readiness of this front end for requests", answers_of(200, "Health", 503)
            )
        },
        "/openapi.json": {"get": endpoint("getDescription", "This document", _description())},
    }


def paths_for_operators() -> Fragment:
    return {"/openapi.json": {"get": endpoint("getDescription", "This document", _description() | problems(*REJECTED))}}


def _description() -> Fragment:
    return {"200": answer("An OpenAPI document.", {JSON: {"type": "object"}})}


SCHEMAS: Fragment = {"Health": object_of({"status": TEXT})}
