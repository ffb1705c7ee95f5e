"""Compares what the roles of both templates grant each program with what the programs called in a run of tests."""

from collections.abc import Iterator

from penstock.infra.cloudformation import Document, NotUnderstood, Stack
from tests.support.recorded_calls import Call

ROLES = {"service": "FrontEndRole", "consumer": "ConsumerRole"}
POLICY = "AWS::IAM::RolePolicy"
# Needed when there is no such file or bucket, and for a file that could not be finished. No story lets that happen.
NEVER_SEEN = {"s3:ListBucket", "s3:AbortMultipartUpload"}


def granted(template: Document) -> set[Call]:
    """Return the grants, with resources named as in recorded calls: without the name of the installation."""

    def made(name: str, _attribute: str) -> str:
        properties = stack.properties(name)
        named: str = properties["QueueName"] if "QueueName" in properties else properties["TableName"]
        return named

    stack = Stack(template, {"Name": ""}, made)
    return {call for program, role in ROLES.items() for call in _grants(program, stack.properties(role))}


def granted_in_bucket(template: Document) -> set[Call]:
    """Return the grants of the stack of the bucket, with files named as in recorded calls: `/uploads/*`."""
    roles = {role: program for program, role in ROLES.items() if role in template["Parameters"]}
    stack = Stack(template, {"BucketName": "", **roles}, lambda *_: "")
    policies = [stack.properties(name) for name in stack.resources(POLICY)]
    return {call for policy in policies for call in _grants(policy["RoleName"], {"Policies": [policy]})}


def left_out(template: Document) -> set[tuple[str, str, str]]:
    """Return the grants that `granted` leaves out, as role, policy and action. No program uses them in a test."""
    stack = Stack(template, {"Name": ""}, lambda name, _attribute: name)
    seen = {(role, policy["PolicyName"]) for role in ROLES.values() for policy in stack.properties(role)["Policies"]}
    return {
        (role, policy["PolicyName"], action)
        for role, resource in template["Resources"].items()
        if resource["Type"] == "AWS::IAM::Role"
        for policy in _all_policies(resource["Properties"])
        if (role, policy["PolicyName"]) not in seen
        for statement in policy["PolicyDocument"]["Statement"]
        for action in _list(statement["Action"])
    }


def _all_policies(role: Document) -> Iterator[Document]:
    """Yield all policies of a role, including those under a condition."""
    for policy in role["Policies"]:
        yield from policy["Fn::If"][1:-1] if "Fn::If" in policy else [policy]


def _grants(program: str, role: Document) -> Iterator[Call]:
    for policy in role["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement["Effect"] != "Allow":
                raise NotUnderstood(f"{ROLES[program]}: teach tests/support/roles.py to read {statement['Effect']}")
            for action in _list(statement["Action"]):
                for resource in _list(statement["Resource"]):
                    yield Call(program, action, resource)


def _list(one_or_many: str | list[str]) -> list[str]:
    return [one_or_many] if isinstance(one_or_many, str) else one_or_many


def compare(seen: set[Call], grants: set[Call], *, is_whole_run: bool) -> list[str]:
    """Return the errors of the roles. Only a whole run can show that a grant is never used."""
    lacking = [f"{ROLES[call.program]} lacks {_words(call)}, which was called" for call in sorted(seen - grants)]
    if not is_whole_run:
        return lacking
    unused = sorted(call for call in grants - seen if call.action not in NEVER_SEEN)
    return lacking + [f"{ROLES[call.program]} grants {_words(call)}, which no test has called" for call in unused]


def _words(call: Call) -> str:
    return f"{call.action} on {call.resource if call.resource == '*' else 'NAME' + call.resource}"
