"""The template as moto's CloudFormation makes it, as far as it does: what stands is what the template says.

moto says CREATE_COMPLETE of whatever it gets and drops much of it silently. What it does not make at all is taken out
of a copy first, what it forgets is listed. So this proves that names, references and conditions work out.
"""

import ast
import json
import secrets
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from penstock.infra.cloudformation import Document, Stack, read_template
from penstock.infra.provision import QUEUE, TABLE, TEMPLATE
from penstock.settings import Settings
from tests.integration.test_provisioned import Ground, means_the_same
from tests.support.aws import Aws

pytestmark = [pytest.mark.full, pytest.mark.parametrize("aws", ["embedded"], indirect=True)]

NOT_MADE = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::Dashboard",  # it names the alarms
    "AWS::SQS::QueuePolicy",
}
FORGOTTEN = {"TimeToLiveSpecification", "PointInTimeRecoverySpecification", "SSESpecification"}
ACCOUNT = "123456789012"  # moto's
ARNS = {
    QUEUE: "sqs:us-east-1:{account}:{name}",
    TABLE: "dynamodb:us-east-1:{account}:table/{name}",
    "AWS::Logs::LogGroup": "logs:us-east-1:{account}:log-group:{name}",
    "AWS::IAM::Role": "iam::{account}:role/{name}",
}
GIVEN = {
    "Image": "image",
    "App": "shop.operations:operations",
    "KmsKeyArn": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/one",
    "EnvironmentFileArn": "arn:aws:s3:::bucket/file.env",
    "OperatorCidr": "10.1.0.0/16",
    "SecretArn": f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:one",
    "Auth": "keys",
    "OperatorKeyArn": f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:two",
}


@dataclass(frozen=True, slots=True)
class Deployed:
    """`stack` is the template with the names and ARNs of what moto made."""

    settings: Settings
    stack: Stack
    client: Callable[[str], Any]


@pytest.fixture(scope="module")
def deployed(aws: Aws) -> Deployed:
    """One for all: moto's CloudFormation takes seconds to load, and these tests only look."""

    def client(service: str) -> Any:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        keys = {name.lower(): aws.environment[name] for name in names}
        url = aws.environment["AWS_ENDPOINT_URL"]
        return boto3.client(service, endpoint_url=url, region_name="us-east-1", **keys)  # type: ignore[call-overload]

    settings = Settings(name=f"test-{secrets.token_hex(4)}", visibility_seconds=77)
    template = deepcopy(read_template(TEMPLATE))
    template["Resources"] = {name: one for name, one in template["Resources"].items() if one["Type"] not in NOT_MADE}
    own = {"Name": settings.name, "VisibilitySeconds": str(settings.visibility_seconds)}
    certificate = client("acm").request_certificate(DomainName="shop.example")["CertificateArn"]
    parameters = {**GIVEN, **own, **_network(client("ec2")), "CertificateArn": certificate}
    cloudformation = client("cloudformation")
    cloudformation.create_stack(
        StackName=settings.name,
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    [stack] = cloudformation.describe_stacks(StackName=settings.name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    assert all(output["OutputValue"] for output in stack["Outputs"])

    def made(name: str, attribute: str) -> str:
        kind = template["Resources"][name]["Type"]
        answer = cloudformation.describe_stack_resource(StackName=settings.name, LogicalResourceId=name)
        physical = str(answer["StackResourceDetail"]["PhysicalResourceId"])
        if attribute == "Arn":
            own = physical.rpartition("/")[2] if kind == QUEUE else physical
            return "arn:aws:" + ARNS[kind].format(account=ACCOUNT, name=own)
        return physical

    return Deployed(settings, Stack(template, {**parameters, "AWS::AccountId": ACCOUNT}, made), client)


def _network(ec2: Any) -> dict[str, str]:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = ",".join(
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        for number, zone in enumerate(["us-east-1a", "us-east-1b"])
    )
    return {"VpcId": vpc, "LoadBalancerSubnets": subnets, "TaskSubnets": subnets}


def test_queues_and_table_are_those_of_the_template(deployed: Deployed) -> None:
    ground = Ground(deployed.settings, deployed.client("sqs"), deployed.client("dynamodb"))

    for name in deployed.stack.resources(QUEUE, TABLE):
        standing = ground.standing(name)
        for one, wanted in deployed.stack.properties(name).items():
            if one not in FORGOTTEN:
                assert means_the_same(wanted, standing.get(one)), (name, one, wanted, standing.get(one))


@pytest.mark.parametrize("name", ["FrontEndRole", "ConsumerRole", "ExecutionRole"])
def test_roles_grant_what_the_template_says(name: str, deployed: Deployed) -> None:
    iam = deployed.client("iam")
    role = deployed.stack.resolve({"Ref": name})
    wanted = deployed.stack.properties(name)

    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    # moto keeps what its CloudFormation gives it as Python writes it.
    standing = {
        one: ast.literal_eval(iam.get_role_policy(RoleName=role, PolicyName=one)["PolicyDocument"]) for one in names
    }

    assert standing == {policy["PolicyName"]: policy["PolicyDocument"] for policy in wanted["Policies"]}
    assert iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"] == wanted["AssumeRolePolicyDocument"]


@pytest.mark.parametrize("name", ["FrontEndTask", "ConsumerTask"])
def test_containers_are_those_of_the_template(name: str, deployed: Deployed) -> None:
    wanted = deployed.stack.properties(name)
    [task] = deployed.client("ecs").list_task_definitions(familyPrefix=wanted["Family"])["taskDefinitionArns"]

    standing = deployed.client("ecs").describe_task_definition(taskDefinition=task)["taskDefinition"]

    [container], [wanted_container] = standing["containerDefinitions"], wanted["ContainerDefinitions"]
    assert {one: container.get(one) for one in _as_ecs_writes(wanted_container)} == _as_ecs_writes(wanted_container)


def _as_ecs_writes(value: Any) -> Any:
    """CloudFormation begins names with capitals, ECS does not, but for those of a log driver's options."""
    match value:
        case dict():
            return {name[0].lower() + name[1:]: _as_ecs_writes(one) for name, one in value.items()}
        case list():
            return [_as_ecs_writes(one) for one in value]
    return value


def test_the_balancer_asks_and_sends_as_the_template_says(deployed: Deployed) -> None:
    wanted: Document = deployed.stack.properties("FrontEnds")
    elb = deployed.client("elbv2")
    [group] = elb.describe_target_groups(TargetGroupArns=[deployed.stack.resolve({"Ref": "FrontEnds"})])["TargetGroups"]
    balancer = deployed.stack.resolve({"Ref": "LoadBalancer"})
    listeners = elb.describe_listeners(LoadBalancerArn=balancer)["Listeners"]

    assert {one: group[one] for one in wanted if one in group} == {one: wanted[one] for one in wanted if one in group}
    assert group["HealthCheckPath"] == "/health/live"
    actions = {one["Port"]: one["DefaultActions"][0] for one in listeners}
    assert actions[80]["RedirectConfig"]["Protocol"] == "HTTPS"
    assert actions[443]["FixedResponseConfig"]["StatusCode"] == "404"
    [secure] = [one["ListenerArn"] for one in listeners if one["Port"] == 443]
    rules = elb.describe_rules(ListenerArn=secure)["Rules"]
    found = {one["Conditions"][0]["Field"]: one["Actions"][0] for one in rules if not one["IsDefault"]}
    forward = {"Type": "forward", "TargetGroupArn": group["TargetGroupArn"]}
    assert {field: {one: action[one] for one in forward} for field, action in found.items()} == {
        "path-pattern": forward
    }
