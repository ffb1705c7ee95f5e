"""What must be true of the template where cfn-lint is blind: each rule yields a sentence for whatever breaks it."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bench.widgets import Row, rows_of
from penstock.infra.cloudformation import Document
from penstock.metrics.names import Metric

Rule = Callable[[Document], Iterator[str]]

QUEUE, ALARM, ROLE = "AWS::SQS::Queue", "AWS::CloudWatch::Alarm", "AWS::IAM::Role"
SCALING_POLICY = "AWS::ApplicationAutoScaling::ScalingPolicy"
FILL_CONSTANT = re.compile(r"\bFILL\(\s*\w+\s*,\s*-?[\d.]")
DAY_SECONDS = 86_400
LONGEST_ALARM_DAYS = 7  # CloudWatch looks no further back
SMALLEST_REASON = 20  # characters
LONGEST_STOP_SECONDS = 120  # Fargate's limit

# AWS's metrics that we use, and the dimensions each comes with.
AWS_METRICS: Mapping[tuple[str, str], tuple[set[str], ...]] = {
    **dict.fromkeys(
        [
            ("AWS/SQS", name)
            for name in (
                "ApproximateAgeOfOldestMessage",
                "ApproximateNumberOfMessagesVisible",
                "NumberOfMessagesReceived",
            )
        ],
        ({"QueueName"},),
    ),
    **dict.fromkeys(
        [("AWS/DynamoDB", name) for name in ("ReadThrottleEvents", "WriteThrottleEvents")],
        ({"TableName"}, {"TableName", "GlobalSecondaryIndexName"}),
    ),
    **dict.fromkeys(
        [("AWS/DynamoDB", name) for name in ("ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits")],
        ({"TableName"}, {"TableName", "GlobalSecondaryIndexName"}),
    ),
    ("AWS/ECS", "CPUUtilization"): ({"ClusterName", "ServiceName"},),
    ("AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count"): ({"LoadBalancer"},),
    ("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count"): ({"LoadBalancer"}, {"LoadBalancer", "TargetGroup"}),
    ("AWS/ApplicationELB", "HealthyHostCount"): ({"LoadBalancer", "TargetGroup"},),
}

# Calls that know no resource, and what narrows them instead.
WITHOUT_RESOURCE: Mapping[str, Document | None] = {
    "ecr:GetAuthorizationToken": None,
    "cloudwatch:PutMetricData": {"StringEquals": {"cloudwatch:namespace": "Penstock"}},
}


class Use(NamedTuple):
    """A metric as an alarm, a policy or a widget uses it."""

    where: str
    namespace: str
    name: str
    dimensions: Mapping[str, Any]


def resources(template: Document, kind: str) -> dict[str, Document]:
    """The properties of all resources of a type."""
    return {name: one.get("Properties", {}) for name, one in template["Resources"].items() if one["Type"] == kind}


def metric_uses(template: Document) -> Iterator[Use]:
    for name, alarm in resources(template, ALARM).items():
        yield from _uses(name, [alarm] if "MetricName" in alarm else _metrics_of(alarm))
    for name, policy in resources(template, SCALING_POLICY).items():
        custom = policy["TargetTrackingScalingPolicyConfiguration"].get("CustomizedMetricSpecification", {})
        yield from _uses(name, _metrics_of(custom))
    for title, rows in widgets(template).items():
        yield from (Use(title, row[0], row[1], dict(zip(row[2::2], row[3::2], strict=True))) for row, _ in rows)


def _metrics_of(thing: Document) -> list[Document]:
    return [one["MetricStat"]["Metric"] for one in thing.get("Metrics", ()) if "MetricStat" in one]


def _uses(where: str, metrics: list[Document]) -> Iterator[Use]:
    for metric in metrics:
        dimensions = {one["Name"]: one["Value"] for one in metric["Dimensions"]}
        yield Use(where, metric["Namespace"], metric["MetricName"], dimensions)


def dashboard(template: Document) -> Document:
    body: Document = json.loads(template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"])
    return body


def widgets(template: Document) -> dict[str, list[Row]]:
    """The metrics of each widget by its title, written out in full, with their options."""
    return {
        widget["properties"]["title"]: rows_of(widget["properties"])
        for widget in dashboard(template)["widgets"]
        if widget["type"] == "metric"
    }


def metrics_exist(template: Document) -> Iterator[str]:
    for use in metric_uses(template):
        if use.namespace == "Penstock":
            yield from _check_ours(use)
        elif set(use.dimensions) not in AWS_METRICS.get((use.namespace, use.name), ()):
            yield f"{use.where}: AWS has no {use.namespace} {use.name} by {sorted(use.dimensions)}"


def _check_ours(use: Use) -> Iterator[str]:
    programs = {metric.value: metric.programs for metric in Metric}
    if use.name not in programs:
        yield f"{use.where}: we have no metric {use.name}"
    elif set(use.dimensions) != {"Service", "Program"}:
        yield f"{use.where}: {use.name} has the dimensions Service and Program"
    elif use.dimensions["Program"] not in programs[use.name]:
        yield f"{use.where}: no {use.dimensions['Program']} measures {use.name}"


def alarms_are_whole(template: Document) -> Iterator[str]:
    parts = (
        *("AlarmName", "AlarmDescription", "AlarmActions", "OKActions", "TreatMissingData"),
        *("EvaluationPeriods", "ComparisonOperator", "Threshold"),
    )
    for name, alarm in resources(template, ALARM).items():
        yield from (f"{name} lacks {part}" for part in parts if part not in alarm)
        if len(alarm.get("AlarmDescription", "")) < SMALLEST_REASON:
            yield f"{name} does not say what it means"
        yield from _check_metric(name, alarm)


def _check_metric(name: str, alarm: Document) -> Iterator[str]:
    stats = [one["MetricStat"] for one in alarm.get("Metrics", ()) if "MetricStat" in one] or [alarm]
    if not all("Period" in one for one in stats):
        yield f"{name} has a metric without Period"
    elif len({one["Period"] for one in stats}) > 1:
        yield f"{name} compares metrics of different periods"
    if not all("Stat" in one or "Statistic" in one for one in stats):
        yield f"{name} has a metric without a statistic"


def expressions_add_up(template: Document) -> Iterator[str]:
    """cfn-lint does not read expressions: whether each name in them is a metric beside it, and one is the answer."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        scaling = properties.get("TargetTrackingScalingPolicyConfiguration", {})
        metrics = (scaling.get("CustomizedMetricSpecification") or properties).get("Metrics", ())
        ids = [one["Id"] for one in metrics]
        if metrics and sum(bool(one.get("ReturnData")) for one in metrics) != 1:
            yield f"{name} needs one metric that is the answer"
        used = {word for one in metrics for word in re.findall(r"\b[a-z][a-z0-9_]*", one.get("Expression", ""))}
        yield from (f"{name} knows no {word}" for word in sorted(used - set(ids)))
        unused = [one["Id"] for one in metrics if not one.get("ReturnData") and one["Id"] not in used]
        yield from (f"{name} has no use for {one}" for one in unused)


def late_metrics_are_waited_for(template: Document) -> Iterator[str]:
    """FILL with a constant makes a point of a minute that is only late: one of the latest is always wrong."""
    for name, policy in resources(template, SCALING_POLICY).items():
        if "FILL(" in json.dumps(policy):
            yield f"{name} makes up what is late, and scales by it"
    for name, alarm in resources(template, ALARM).items():
        periods = int(alarm["EvaluationPeriods"])
        if FILL_CONSTANT.search(json.dumps(alarm)) and int(alarm.get("DatapointsToAlarm", periods)) >= periods:
            yield f"{name} takes what is late for a constant, and alarms only when all points breach"


def queues_are_guarded(template: Document) -> Iterator[str]:
    letters = {"Fn::GetAtt": ["DeadLetters", "Arn"]}
    alarms = resources(template, ALARM).values()
    for name, queue in resources(template, QUEUE).items():
        if name == "DeadLetters":
            if not any(_watches_for_days(alarm, name) for alarm in alarms):
                yield f"{name} has no alarm on letters that lie for days"
        else:
            if queue.get("RedrivePolicy", {}).get("deadLetterTargetArn") != letters:
                yield f"{name} has no redrive policy to the dead letters"
            if not any(_watches_age(alarm, name) for alarm in alarms):
                yield f"{name} has no alarm on the age of its oldest message while one waits"
        if {"Ref": name} not in _refusing_plain_http(template):
            yield f"{name} may be talked to over plain HTTP"
        if {"Ref": name} not in _rejecting_other_senders(template):
            yield f"{name} takes messages from everybody in the account"
        if not {"SqsManagedSseEnabled", "KmsMasterKeyId"} <= set(queue):
            yield f"{name} is not encrypted"


def _of(queue: str) -> list[Document]:
    return [{"Name": "QueueName", "Value": {"Fn::GetAtt": [queue, "QueueName"]}}]


def _watches_age(alarm: Document, queue: str) -> bool:
    """SQS counts the age of hidden messages, too: it tells something only while one waits."""
    parts = {one["Id"]: one.get("Expression") or _words_of(one["MetricStat"]) for one in alarm.get("Metrics", ())}
    return parts == {
        "value": "IF(visible > 0, age, 0)",
        "visible": ("Minimum", "ApproximateNumberOfMessagesVisible", _of(queue)),
        "age": ("Maximum", "ApproximateAgeOfOldestMessage", _of(queue)),
    }


def _words_of(stat: Document) -> tuple[str, str, list[Document]]:
    return stat["Stat"], stat["Metric"]["MetricName"], stat["Metric"]["Dimensions"]


def _watches_for_days(alarm: Document, queue: str) -> bool:
    """By their number: SQS leaves out of the age what was received three times, as letters are that are looked at."""
    what = (alarm.get("Statistic"), alarm.get("MetricName"), alarm.get("Dimensions"))
    days = alarm.get("Period", 0) * alarm["EvaluationPeriods"] / DAY_SECONDS
    return what == ("Minimum", "ApproximateNumberOfMessagesVisible", _of(queue)) and 1 < days <= LONGEST_ALARM_DAYS


def _refusing_plain_http(template: Document) -> list[Document]:
    refusal = {"Bool": {"aws:SecureTransport": "false"}}
    return [
        queue
        for policy in resources(template, "AWS::SQS::QueuePolicy").values()
        for statement in policy["PolicyDocument"]["Statement"]
        if (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "sqs:*")
        and statement.get("Condition") == refusal
        for queue in policy["Queues"]
    ]


def _rejecting_other_senders(template: Document) -> list[Document]:
    """Only the two roles and RedriverArns may send. What SQS moves itself is sent by no principal of the account."""
    roles = [{"Fn::GetAtt": [role, "Arn"]} for role in ("FrontEndRole", "ConsumerRole")]
    with_others = {"Fn::Split": [",", {"Fn::Sub": "${FrontEndRole.Arn},${ConsumerRole.Arn},${RedriverArns}"}]}
    refusal = {
        "Bool": {"aws:PrincipalIsAWSService": "false"},
        "ArnNotLike": {"aws:PrincipalArn": {"Fn::If": ["HasRedrivers", with_others, roles]}},
    }
    return [
        queue
        for policy in resources(template, "AWS::SQS::QueuePolicy").values()
        for statement in policy["PolicyDocument"]["Statement"]
        if (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "sqs:SendMessage")
        and (statement["Resource"], statement.get("Condition")) == ("*", refusal)
        for queue in policy["Queues"]
    ]


def table_is_guarded(template: Document) -> Iterator[str]:
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::DynamoDB::Table":
            continue
        table = resource["Properties"]
        if resource.get("DeletionPolicy") not in {"Retain", "RetainExceptOnCreate"}:
            yield f"{name} would be deleted with the stack"
        if resource.get("DeletionPolicy") != "RetainExceptOnCreate":
            yield f"{name} would be in the way when a first deploy that failed is repeated"
        if resource.get("UpdateReplacePolicy") != "Retain":
            yield f"{name} would be deleted when it is replaced"
        if table.get("PointInTimeRecoverySpecification") != {"PointInTimeRecoveryEnabled": True}:
            yield f"{name} has no point-in-time recovery"
        if table.get("DeletionProtectionEnabled") != {"Ref": "DeletionProtection"}:
            yield f"{name} has no deletion protection"
        if "SSESpecification" not in table:
            yield f"{name} cannot be encrypted with a key of one's own"


def roles_name_what_they_grant(template: Document) -> Iterator[str]:
    for name, role in resources(template, ROLE).items():
        for statement in statements(role):
            yield from _check_statement(name, statement)


def statements(role: Document) -> list[Document]:
    """All that a role grants, also under conditions."""
    policies = [one["Fn::If"][1] if "Fn::If" in one else one for one in role.get("Policies", ())]
    return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]


def actions(statement: Document) -> list[str]:
    named = statement["Action"]
    return [named] if isinstance(named, str) else named


def _check_statement(name: str, statement: Document) -> Iterator[str]:
    for action in actions(statement):
        if "*" in action:
            yield f"{name} grants {action}, which names no call"
        if statement["Resource"] == "*" and statement.get("Condition") != WITHOUT_RESOURCE.get(action, {}):
            yield f"{name} grants {action} on everything"


def programs_are_confined(template: Document) -> Iterator[str]:
    for name, task in resources(template, "AWS::ECS::TaskDefinition").items():
        for container in task["ContainerDefinitions"]:
            if container.get("User") in {None, "0", "root"}:
                yield f"{name} runs as root"
            if container.get("ReadonlyRootFilesystem") is not True:
                yield f"{name} may write to its image"
            if "/tmp" not in [mount["ContainerPath"] for mount in container.get("MountPoints", ())]:
                yield f"{name} has no place for temporary files"
            if container.get("LinuxParameters", {}).get("Capabilities") != {"Drop": ["ALL"]}:
                yield f"{name} keeps capabilities that it does not need"
            if not 0 < container.get("StopTimeout", 0) <= LONGEST_STOP_SECONDS:
                yield f"{name} has no time to stop that Fargate allows"
            if "awslogs-group" not in container.get("LogConfiguration", {}).get("Options", {}):
                yield f"{name} logs to nowhere"


def logs_are_forgotten(template: Document) -> Iterator[str]:
    for name, group in resources(template, "AWS::Logs::LogGroup").items():
        if "RetentionInDays" not in group:
            yield f"{name} keeps logs for ever"


def deploys_roll_back(template: Document) -> Iterator[str]:
    for name, service in resources(template, "AWS::ECS::Service").items():
        if service.get("DeploymentConfiguration", {}).get("DeploymentCircuitBreaker") != {
            "Enable": True,
            "Rollback": True,
        }:
            yield f"{name} stays broken when a deploy fails"
        if "DesiredCount" in service:
            yield f"{name} forgets with each deploy how far it was scaled"


def dashboard_shows_all(template: Document) -> Iterator[str]:
    shown = {row[1] for rows in widgets(template).values() for row, _ in rows if row[0] == "Penstock"}
    yield from (f"the dashboard does not show {metric}" for metric in Metric if metric not in shown)
    lamps = [arn for one in dashboard(template)["widgets"] for arn in one["properties"].get("alarms", ())]
    for name in resources(template, ALARM):
        if f"${{{name}.Arn}}" not in lamps:
            yield f"the dashboard does not show {name}"


RULES: tuple[Rule, ...] = (
    metrics_exist,
    alarms_are_whole,
    expressions_add_up,
    late_metrics_are_waited_for,
    queues_are_guarded,
    table_is_guarded,
    roles_name_what_they_grant,
    programs_are_confined,
    logs_are_forgotten,
    deploys_roll_back,
    dashboard_shows_all,
)
