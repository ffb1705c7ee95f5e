"""The template: linted, held to rules of our own, and fitting what the programs do."""

import fnmatch
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from penstock import Operations
from penstock.aws.items import DUE_INDEX
from penstock.consumer.consumer import LEAVING_SECONDS, RECORDING_SECONDS
from penstock.infra.cloudformation import Document, Stack, read_template
from penstock.infra.provision import BUCKET_TEMPLATE, TEMPLATE
from penstock.service.content import PAUSE_SECONDS
from penstock.service.openapi.document import describe, describe_for_operators
from penstock.service.program import KEEP_ALIVE_SECONDS
from penstock.settings import Settings
from tests.unit.infra.template_rules import (
    ALARM,
    QUEUE,
    RULES,
    Rule,
    alarms_are_whole,
    dashboard_shows_all,
    deploys_roll_back,
    expressions_add_up,
    late_metrics_are_waited_for,
    logs_are_forgotten,
    metrics_exist,
    programs_are_confined,
    queues_are_guarded,
    resources,
    roles_name_what_they_grant,
    table_is_guarded,
)

PATHS = "AWS::ElasticLoadBalancingV2::ListenerRule"
MOST_PATTERNS = 3  # that a balancer takes in one condition
LARGEST_INLINE_BYTES = 51_200  # above, CloudFormation takes a template out of a bucket only
README = TEMPLATE.with_name("README.md")
NAME = "shop"


@pytest.fixture
def template() -> Document:
    return deepcopy(read_template(TEMPLATE))


@pytest.fixture
def stack(template: Document) -> Stack:
    return deployed(template)


def deployed(template: Document, **parameters: str) -> Stack:
    """The template with these parameters, and something in place of those that have no default."""
    needed = {name: f"<{name}>" for name, one in template["Parameters"].items() if "Default" not in one}
    return Stack(template, {**needed, "Name": NAME, **parameters}, lambda name, attribute: f"<{name}.{attribute}>")


def test_cfn_lint_finds_nothing() -> None:
    """One program checks both templates, because loading its rules takes most of the time."""
    command = [Path(sys.executable).with_name("cfn-lint"), TEMPLATE, BUCKET_TEMPLATE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_cloudformation_takes_it_without_a_bucket() -> None:
    assert TEMPLATE.stat().st_size < LARGEST_INLINE_BYTES


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_template_keeps_our_rules(rule: Rule, template: Document) -> None:
    assert list(rule(template)) == []


def test_every_parameter_is_described(template: Document) -> None:
    assert [name for name, one in template["Parameters"].items() if "Description" not in one] == []


def at(template: Document, path: str) -> Any:
    """What stands in the template's resources at this path."""
    found = template["Resources"]
    for step in filter(None, path.split("/")):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def put(path: str, value: Any) -> Callable[[Document], None]:
    def change(template: Document) -> None:
        where, _, last = path.rpartition("/")
        at(template, where)[last] = value

    return change


def drop(path: str) -> Callable[[Document], None]:
    def change(template: Document) -> None:
        where, _, last = path.rpartition("/")
        found = at(template, where)
        found.pop(int(last) if isinstance(found, list) else last)

    return change


def rewrite(path: str, before: str, after: str) -> Callable[[Document], None]:
    def change(template: Document) -> None:
        where, _, last = path.rpartition("/")
        text = at(template, path)
        assert before in text
        at(template, where)[last] = text.replace(before, after)

    return change


BODY = "Dashboard/Properties/DashboardBody/Fn::Sub"
SCALING = "ConsumersOnBacklog/Properties/TargetTrackingScalingPolicyConfiguration/CustomizedMetricSpecification/Metrics"
CONTAINER = "ConsumerTask/Properties/ContainerDefinitions/0"
QUEUE_POLICY = "EncryptedTransportOnly/Properties/PolicyDocument/Statement"
GRANT = "FrontEndRole/Properties/Policies/0/PolicyDocument/Statement"


@pytest.mark.parametrize(
    ("rule", "breaking", "complaint"),
    [
        (
            metrics_exist,
            put("FrontEndErrors/Properties/MetricName", "HttpAnswer5xx"),
            "we have no metric HttpAnswer5xx",
        ),
        (
            metrics_exist,
            put("FrontEndErrors/Properties/Dimensions/1/Value", "consumer"),
            "no consumer measures HttpAnswers5xx",
        ),
        (metrics_exist, drop("FrontEndErrors/Properties/Dimensions/1"), "HttpAnswers5xx has the dimensions"),
        (
            metrics_exist,
            put("OldestLow/Properties/Metrics/2/MetricStat/Metric/MetricName", "AgeOfOldestMessage"),
            "AWS has no AWS/SQS AgeOfOldestMessage",
        ),
        (
            metrics_exist,
            put("TableThrottled/Properties/Metrics/1/MetricStat/Metric/Dimensions/0/Name", "Table"),
            "AWS has no AWS/DynamoDB ReadThrottleEvents by ['Table']",
        ),
        (
            metrics_exist,
            put(f"{SCALING}/4/MetricStat/Metric/MetricName", "RunningTaskCount"),
            "ConsumersOnBacklog: AWS has no AWS/ECS RunningTaskCount",
        ),
        (metrics_exist, rewrite(BODY, "HandlerSeconds", "HandlerSecond"), "Handler time, seconds: we have no"),
        (alarms_are_whole, drop("NoFrontEnd/Properties/TreatMissingData"), "NoFrontEnd lacks TreatMissingData"),
        (alarms_are_whole, drop("NoFrontEnd/Properties/AlarmActions"), "NoFrontEnd lacks AlarmActions"),
        (alarms_are_whole, put("NoFrontEnd/Properties/AlarmDescription", "Down."), "does not say what it means"),
        (alarms_are_whole, drop("NoFrontEnd/Properties/Period"), "NoFrontEnd has a metric without Period"),
        (alarms_are_whole, drop("NoFrontEnd/Properties/Statistic"), "NoFrontEnd has a metric without a statistic"),
        (
            alarms_are_whole,
            put("FailureRate/Properties/Metrics/3/MetricStat/Period", 60),
            "FailureRate compares metrics of different periods",
        ),
        (expressions_add_up, drop("FailureRate/Properties/Metrics/3"), "FailureRate knows no f1"),
        (expressions_add_up, rewrite(f"{SCALING}/0/Expression", " + low", ""), "has no use for low"),
        (expressions_add_up, put(f"{SCALING}/1/ReturnData", True), "needs one metric that is the answer"),
        (
            late_metrics_are_waited_for,
            rewrite(f"{SCALING}/0/Expression", "low", "FILL(low, 0)"),
            "ConsumersOnBacklog makes up what is late",
        ),
        (
            late_metrics_are_waited_for,
            drop("FailureRate/Properties/DatapointsToAlarm"),
            "FailureRate takes what is late",
        ),
        (
            late_metrics_are_waited_for,
            put("TableThrottled/Properties/EvaluationPeriods", 3),
            "TableThrottled takes what is late",
        ),
        (queues_are_guarded, drop("ChunksLow/Properties/RedrivePolicy"), "ChunksLow has no redrive policy"),
        (
            queues_are_guarded,
            put("ChunksLow/Properties/RedrivePolicy/deadLetterTargetArn", {"Fn::GetAtt": ["ChunksHigh", "Arn"]}),
            "ChunksLow has no redrive policy",
        ),
        (queues_are_guarded, drop("OldestHigh"), "ChunksHigh has no alarm on the age"),
        (
            queues_are_guarded,
            put("OldestHigh/Properties/Metrics/0/Expression", "age"),
            "ChunksHigh has no alarm on the age",
        ),
        (
            queues_are_guarded,
            put("OldestLow/Properties/Metrics/1/MetricStat/Stat", "Maximum"),
            "ChunksLow has no alarm on the age",
        ),
        (
            queues_are_guarded,
            put("OldestLow/Properties/Metrics/1/MetricStat/Metric/Dimensions/0/Value", {"Ref": "ChunksHigh"}),
            "ChunksLow has no alarm on the age",
        ),
        (
            queues_are_guarded,
            put("DeadLettersForgotten/Properties/MetricName", "ApproximateAgeOfOldestMessage"),
            "DeadLetters has no alarm on letters that lie for days",
        ),
        (
            queues_are_guarded,
            put("DeadLettersForgotten/Properties/EvaluationPeriods", 8),
            "DeadLetters has no alarm on letters that lie for days",
        ),
        (queues_are_guarded, drop("EncryptedTransportOnly/Properties/Queues/0"), "DeadLetters may be talked to"),
        (
            queues_are_guarded,
            put("EncryptedTransportOnly/Properties/PolicyDocument/Statement/0/Effect", "Allow"),
            "ChunksNormal may be talked to over plain HTTP",
        ),
        *(
            (queues_are_guarded, breaking, "ChunksLow takes messages from everybody in the account")
            for breaking in (
                drop(f"{QUEUE_POLICY}/1"),
                put(f"{QUEUE_POLICY}/1/Action", "sqs:ReceiveMessage"),
                drop(f"{QUEUE_POLICY}/1/Condition/ArnNotLike"),
                put(f"{QUEUE_POLICY}/1/Condition/ArnNotLike", {"aws:PrincipalArn": "*"}),
            )
        ),
        (queues_are_guarded, drop("DeadLetters/Properties/SqsManagedSseEnabled"), "DeadLetters is not encrypted"),
        (table_is_guarded, drop("Table/DeletionPolicy"), "Table would be deleted with the stack"),
        (table_is_guarded, put("Table/DeletionPolicy", "Retain"), "Table would be in the way"),
        (table_is_guarded, drop("Table/UpdateReplacePolicy"), "Table would be deleted when it is replaced"),
        (table_is_guarded, drop("Table/Properties/PointInTimeRecoverySpecification"), "no point-in-time recovery"),
        (table_is_guarded, drop("Table/Properties/DeletionProtectionEnabled"), "no deletion protection"),
        (table_is_guarded, drop("Table/Properties/SSESpecification"), "cannot be encrypted"),
        (roles_name_what_they_grant, put(f"{GRANT}/0/Action", "sqs:*"), "FrontEndRole grants sqs:*"),
        (
            roles_name_what_they_grant,
            put(f"{GRANT}/0/Resource", "*"),
            "FrontEndRole grants sqs:SendMessage on everything",
        ),
        (roles_name_what_they_grant, drop(f"{GRANT}/3/Condition"), "grants cloudwatch:PutMetricData on everything"),
        (programs_are_confined, drop(f"{CONTAINER}/User"), "ConsumerTask runs as root"),
        (programs_are_confined, drop(f"{CONTAINER}/ReadonlyRootFilesystem"), "ConsumerTask may write to its image"),
        (programs_are_confined, drop(f"{CONTAINER}/MountPoints/0"), "ConsumerTask has no place for temporary files"),
        (programs_are_confined, drop(f"{CONTAINER}/LinuxParameters"), "ConsumerTask keeps capabilities"),
        (programs_are_confined, put(f"{CONTAINER}/StopTimeout", 121), "ConsumerTask has no time to stop"),
        (programs_are_confined, drop(f"{CONTAINER}/LogConfiguration"), "ConsumerTask logs to nowhere"),
        (logs_are_forgotten, drop("ConsumerLogs/Properties/RetentionInDays"), "ConsumerLogs keeps logs for ever"),
        (
            deploys_roll_back,
            drop("ConsumerService/Properties/DeploymentConfiguration/DeploymentCircuitBreaker"),
            "ConsumerService stays broken",
        ),
        (deploys_roll_back, put("ConsumerService/Properties/DesiredCount", 1), "ConsumerService forgets"),
        (dashboard_shows_all, rewrite(BODY, "${NoFrontEnd.Arn}", "${TargetErrors.Arn}"), "does not show NoFrontEnd"),
        (dashboard_shows_all, rewrite(BODY, "RejectedByLimit", "HttpAnswers2xx"), "does not show RejectedByLimit"),
    ],
)
def test_a_broken_copy_is_complained_of(
    rule: Rule, breaking: Callable[[Document], None], complaint: str, template: Document
) -> None:
    breaking(template)

    complaints = list(rule(template))

    assert any(complaint in one for one in complaints), complaints


def test_every_rule_is_shown_to_bite() -> None:
    shown = {case[0] for mark in test_a_broken_copy_is_complained_of.pytestmark for case in mark.args[1]}  # type: ignore[attr-defined]

    assert shown == set(RULES)


def container(stack: Stack, task: str) -> Document:
    [one] = stack.properties(task)["ContainerDefinitions"]
    return dict(one)


def attributes_of(stack: Stack, name: str, member: str) -> dict[str, str]:
    return {one["Key"]: one["Value"] for one in stack.properties(name)[member]}


def test_what_it_makes_is_what_the_settings_name(stack: Stack, template: Document) -> None:
    settings = Settings(name=NAME)

    queues = {stack.properties(name)["QueueName"] for name in stack.resources("AWS::SQS::Queue")}
    assert queues == {settings.dead_letter_queue, *(f"{NAME}-chunks-{one}" for one in ("high", "normal", "low"))}
    assert {stack.properties(name)["MaximumMessageSize"] for name in stack.resources("AWS::SQS::Queue")} == {
        settings.message_bytes
    }
    assert stack.properties("Table")["TableName"] == settings.table
    assert [index["IndexName"] for index in stack.properties("Table")["GlobalSecondaryIndexes"]] == [DUE_INDEX]
    assert stack.properties("ConsumerRole")["Policies"][0]["PolicyDocument"]["Statement"][3]["Resource"] == (
        f"<Table.Arn>/index/{DUE_INDEX}"
    )
    assert template["Parameters"]["Name"]["Default"] == Settings.model_fields["name"].default
    assert template["Parameters"]["VisibilitySeconds"]["Default"] == Settings.model_fields["visibility_seconds"].default
    assert template["Parameters"]["Name"]["AllowedPattern"] in str(Settings.model_fields["name"].metadata)


@pytest.mark.parametrize("task", ["FrontEndTask", "ConsumerTask"])
def test_programs_are_told_where_they_belong(task: str, stack: Stack) -> None:
    environment = {one["Name"]: one["Value"] for one in container(stack, task)["Environment"]}

    assert environment["PENSTOCK_NAME"] == NAME
    assert environment["PENSTOCK_LOG_FORMAT"] == "json"
    assert all(
        name == "AWS_REGION" or name.removeprefix("PENSTOCK_").lower() in Settings.model_fields for name in environment
    )


def test_consumers_are_given_the_time_to_drain(stack: Stack) -> None:
    settings = Settings()
    drain = settings.receive_wait_seconds + settings.grace_seconds + RECORDING_SECONDS + LEAVING_SECONDS

    assert drain + 5 <= container(stack, "ConsumerTask")["StopTimeout"]


def test_front_ends_are_given_the_time_to_stop(stack: Stack) -> None:
    settings = Settings()

    assert settings.leave_seconds + settings.grace_seconds + 5 <= container(stack, "FrontEndTask")["StopTimeout"]


def test_the_balancer_closes_a_connection_before_the_front_end_does(stack: Stack) -> None:
    idle = int(attributes_of(stack, "LoadBalancer", "LoadBalancerAttributes")["idle_timeout.timeout_seconds"])

    assert PAUSE_SECONDS < idle < KEEP_ALIVE_SECONDS


def test_the_balancer_asks_whether_a_front_end_lives_and_not_whether_aws_does(stack: Stack) -> None:
    """ECS replaces what the balancer finds unhealthy: readiness would have it replace all whenever SQS is away."""
    targets = stack.properties("FrontEnds")

    assert targets["HealthCheckPath"] == "/health/live"
    assert targets["HealthCheckTimeoutSeconds"] < targets["HealthCheckIntervalSeconds"]


def test_health_and_ports_are_those_that_the_commands_name(stack: Stack) -> None:
    front_end, consumer = container(stack, "FrontEndTask"), container(stack, "ConsumerTask")

    port = front_end["Command"][front_end["Command"].index("--port") + 1]
    health = consumer["Command"][consumer["Command"].index("--health-port") + 1]

    assert [int(port)] == [one["ContainerPort"] for one in front_end["PortMappings"]]
    assert int(port) == stack.properties("FrontEnds")["Port"]
    assert f":{health}/health/live" in consumer["HealthCheck"]["Command"][-1]


@pytest.mark.parametrize(
    ("certificate", "actions"),
    [("", {80: "fixed-response"}), ("arn:aws:acm:...", {80: "redirect", 443: "fixed-response"})],
)
def test_with_a_certificate_plain_http_only_leads_to_https(
    certificate: str, actions: dict[int, str], template: Document
) -> None:
    stack = deployed(template, CertificateArn=certificate)

    listeners = [stack.properties(name) for name in stack.resources("AWS::ElasticLoadBalancingV2::Listener")]

    assert {one["Port"]: one["DefaultActions"][0]["Type"] for one in listeners} == actions


@pytest.mark.parametrize(("certificate", "listener"), [("", "HttpListener"), ("arn:aws:acm:...", "HttpsListener")])
def test_front_ends_join_a_target_group_that_the_balancer_sends_to_already(
    certificate: str, listener: str, template: Document
) -> None:
    """ECS refuses a service whose target group belongs to no balancer, and what is conditional cannot be waited for."""
    stack = deployed(template, CertificateArn=certificate, OperatorCidr="10.1.0.0/16")
    service = stack.resources("AWS::ECS::Service")["FrontEndService"]
    [joined] = [one["TargetGroupArn"] for one in stack.properties("FrontEndService")["LoadBalancers"]]

    awaited = stack.properties(service["DependsOn"])

    assert "Condition" not in stack.resources()[service["DependsOn"]]
    assert awaited["Actions"] == [{"Type": "forward", "TargetGroupArn": joined}]
    assert {stack.properties(name)["ListenerArn"] for name in stack.resources(PATHS)} == {f"<{listener}.Ref>"}
    assert listener in stack.resources("AWS::ElasticLoadBalancingV2::Listener")


def test_clients_reach_every_endpoint_but_those_of_operators(stack: Stack) -> None:
    """A front end unquotes paths and a balancer may not, so that only what is named is let through."""
    conditions = [stack.properties(name)["Conditions"] for name in stack.resources(PATHS)]
    by_rule = [condition["PathPatternConfig"]["Values"] for [condition] in conditions]
    patterns = [pattern for of_rule in by_rule for pattern in of_rule]
    paths = set(describe(Settings(), Operations(), {})["paths"])
    of_operators = set(describe_for_operators(Settings(), {})["paths"]) - paths
    spellings = {"/%6detrics", "//metrics", "/%64ead-letters", "/x/../metrics"}

    reached = {
        path for path in paths | of_operators | spellings if any(fnmatch.fnmatchcase(path, one) for one in patterns)
    }

    keys = {"/keys", "/keys/{key_id}", "/keys/{key_id}/rotate"}
    queues = {"/queues", "/queues/{priority}/pause", "/queues/{priority}/resume"}
    assert of_operators == {"/dead-letters", "/dead-letters/redrive", "/limits", "/metrics", *keys, *queues}
    assert reached == paths
    assert max(map(len, by_rule)) <= MOST_PATTERNS


@pytest.mark.parametrize("auth", ["none", "keys", "header"])
def test_programs_are_told_what_a_request_needs(template: Document, auth: str) -> None:
    """Both listen on all addresses, so a value must always be set."""
    for parameters in ({"Auth": auth}, {} if auth == "none" else {"Auth": auth}):
        stack = deployed(template, **parameters)
        for task in ("FrontEndTask", "ConsumerTask"):
            assert {"Name": "PENSTOCK_AUTH", "Value": auth} in container(stack, task)["Environment"]


def test_only_front_ends_get_the_operator_key_and_only_the_start_reads_it(template: Document) -> None:
    secret = {"Name": "PENSTOCK_OPERATOR_KEY", "ValueFrom": "arn:secret"}
    for arn, expected in (("arn:secret", [secret]), ("", [])):
        stack = deployed(template, OperatorKeyArn=arn)
        assert container(stack, "FrontEndTask")["Secrets"] == expected
        assert container(stack, "ConsumerTask")["Secrets"] == []
        policies = [policy["PolicyName"] for policy in stack.properties("ExecutionRole")["Policies"]]
        assert policies == ["start", *(["operator-key"] if arn else [])]


@pytest.mark.parametrize(
    ("cidr", "host", "reached"),
    [("", "127.0.0.1", []), ("10.1.0.0/16", "0.0.0.0", [("10.1.0.0/16", 8081, 8081)])],
)
def test_operators_reach_front_ends_past_the_balancer_from_their_addresses_only(
    template: Document, cidr: str, host: str, reached: list[tuple[str, int, int]]
) -> None:
    stack = deployed(template, OperatorCidr=cidr)
    options = container(stack, "FrontEndTask")["Command"][1:]
    command = dict(zip(options[::2], options[1::2], strict=True))
    rules = [rule for rule in stack.properties("FrontEndGroup")["SecurityGroupIngress"] if "CidrIp" in rule]

    assert command["--operator-host"] == host
    assert [(rule["CidrIp"], rule["FromPort"], rule["ToPort"]) for rule in rules] == reached
    assert all(port == int(command["--operator-port"]) for _, *ports in reached for port in ports)


@pytest.mark.parametrize(
    ("redrivers", "others"),
    [("", []), ("arn:aws:iam::1:role/a,arn:aws:iam::1:role/b*", ["arn:aws:iam::1:role/a", "arn:aws:iam::1:role/b*"])],
)
def test_only_the_roles_and_the_named_redrivers_send_to_the_queues(
    template: Document, redrivers: str, others: list[str]
) -> None:
    stack = deployed(template, RedriverArns=redrivers)
    policy = stack.properties("EncryptedTransportOnly")
    [senders] = [
        statement["Condition"]["ArnNotLike"]["aws:PrincipalArn"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Action"] == "sqs:SendMessage"
    ]

    assert senders == ["<FrontEndRole.Arn>", "<ConsumerRole.Arn>", *others]
    assert policy["Queues"] == [f"<{queue}.Ref>" for queue in stack.resources(QUEUE)]


@pytest.mark.parametrize(("certificate", "is_allowed"), [("", False), ("arn:aws:acm:...", True)])
def test_nothing_goes_over_the_internet_in_plain_text(certificate: str, is_allowed: bool, template: Document) -> None:
    rule = template["Rules"]["NothingGoesOverTheInternetInPlainText"]
    stack = deployed(template, Scheme="internet-facing", CertificateArn=certificate)

    assert stack._truth(rule["RuleCondition"])
    assert [stack._truth(one["Assert"]) for one in rule["Assertions"]] == [is_allowed]
    assert not deployed(template)._truth(rule["RuleCondition"])


@pytest.mark.parametrize(("spot", "weights"), [("false", [1, 0]), ("true", [0, 1])])
def test_the_first_consumer_never_runs_on_spot(spot: str, weights: list[int], template: Document) -> None:
    stack = deployed(template, ConsumerSpot=spot)

    strategy = stack.properties("ConsumerService")["CapacityProviderStrategy"]

    assert [(one["CapacityProvider"], one["Weight"]) for one in strategy] == list(
        zip(["FARGATE", "FARGATE_SPOT"], weights, strict=True)
    )
    assert strategy[0]["Base"] == 1


def test_a_key_of_ones_own_encrypts_queues_and_table_and_both_programs_may_use_it(template: Document) -> None:
    stack = deployed(template, KmsKeyArn="key")

    assert all(stack.properties(name)["KmsMasterKeyId"] == "key" for name in stack.resources("AWS::SQS::Queue"))
    assert stack.properties("Table")["SSESpecification"]["KMSMasterKeyId"] == "key"
    for role in ("FrontEndRole", "ConsumerRole"):
        [statement] = stack.properties(role)["Policies"][-1]["PolicyDocument"]["Statement"]
        assert statement["Resource"] == "key"


def test_that_nothing_is_received_is_told_by_whole_minutes_and_for_as_long_as_it_lasts(stack: Stack) -> None:
    """SQS forgets queues that nobody asks for six hours, so that what is missing must not end the alarm."""
    alarm = stack.properties("NothingReceived")

    assert not any("FILL" in one.get("Expression", "") for one in alarm["Metrics"])
    assert alarm["DatapointsToAlarm"] < alarm["EvaluationPeriods"]
    assert alarm["TreatMissingData"] == "ignore"


def test_calls_that_the_table_or_its_index_refuses_are_told(stack: Stack) -> None:
    metrics = [one["MetricStat"]["Metric"] for one in stack.properties("TableThrottled")["Metrics"][1:]]

    assert {(one["MetricName"], one["Dimensions"][-1]["Value"]) for one in metrics} == {
        (name, place) for name in ("ReadThrottleEvents", "WriteThrottleEvents") for place in ("<Table.Ref>", DUE_INDEX)
    }


def test_readme_says_what_to_do_about_each_alarm(template: Document) -> None:
    names = [one["AlarmName"]["Fn::Sub"].removeprefix("${Name}-") for one in resources(template, ALARM).values()]

    told = re.findall(r"^\| `([a-z0-9-]+)` \| .{20,} \| .{20,} \|$", README.read_text(), re.MULTILINE)

    assert told == names
