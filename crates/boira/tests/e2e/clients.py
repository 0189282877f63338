"""What unmodified AWS clients do with a cloud: one tour, taken by each of them, and boto3's details.

Arguments: which client (v1, v2, boto3), then the cloud's home, the image and a folder for files.
The environment is what `boira env` prints, with the binary's own settings for boto3 and v1.
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

import boto3
import botocore
import botocore.config
import botocore.exceptions

TOOL, HOME, IMAGE, FILES = sys.argv[1:5]
FILES = pathlib.Path(FILES)
ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
BEGUN = time.monotonic()
# A guest's boot under emulation, on a machine that does other things too.
BOOT_S = 90

CONFIG = botocore.config.Config(retries={"max_attempts": 1, "mode": "standard"})
EC2 = boto3.client("ec2", config=CONFIG)


def say(words):
    print(f"[{time.monotonic() - BEGUN:6.1f} s] {words}", flush=True)


class Boto3:
    """boto3 itself."""

    def call(self, operation, **parameters):
        return getattr(EC2, botocore.xform_name(operation))(**parameters)

    def wait(self, waiter, ids):
        patience = {"Delay": 1, "MaxAttempts": BOOT_S}
        EC2.get_waiter(waiter).wait(InstanceIds=ids, WaiterConfig=patience)


class Cli:
    """An AWS CLI with its parameters spelled as people type them."""

    def __init__(self, version, program, *options):
        self.command = [program, *options, "--output", "json"]
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
        assert told.stdout.startswith(f"aws-cli/{version}."), f"{program} is {told.stdout}"

    def call(self, operation, *options, **parameters):
        done = self.run(operation, *options, **parameters)
        assert done.returncode == 0, f"{done.args}: {done.returncode} {done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def run(self, operation, *options, **parameters):
        words = [*self.command, "ec2", botocore.xform_name(operation, "-")]
        count = parameters.pop("MaxCount", None)
        if count is not None:
            words += ["--count", f"{parameters.pop('MinCount')}:{count}"]
        for name, value in parameters.items():
            flag = botocore.xform_name(name, "-")
            if value is True or value is False:
                words.append(f"--{flag}" if value else f"--no-{flag}")
            elif isinstance(value, list) and all(isinstance(one, str) for one in value):
                words += [f"--{flag}", *value]
            else:
                words += [f"--{flag}", value if isinstance(value, str) else json.dumps(value)]
        words += options
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    def wait(self, waiter, ids):
        # The CLI's waiters look every 15 seconds. boto3 finds the moment, the CLI has to agree.
        Boto3().wait(waiter, ids)
        name = waiter.replace("_", "-")
        words = [*self.command, "ec2", "wait", name, "--instance-ids", *ids]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"


TOOLS = {
    "boto3": Boto3,
    "v1": lambda: Cli(1, str(pathlib.Path(sys.executable).parent / "aws")),
    # Debian's CLI predates AWS_ENDPOINT_URL.
    "v2": lambda: Cli(2, "/usr/bin/aws", "--endpoint-url", ENDPOINT),
}


def ssh(instance, key, command, may_fail=False):
    words = ["ssh", "-F", f"{HOME}/ssh_config", "-i", str(key), "-o", "IdentitiesOnly=yes"]
    # A guest that is reset says nothing to whom it spoke with.
    words += ["-o", "ServerAliveInterval=3", "-o", "ConnectTimeout=20", "-o", "BatchMode=yes"]
    words += [f"root@{instance}", command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if may_fail:
        return done
    assert done.returncode == 0, f"{command} in {instance}: {done.returncode} {done.stderr}"
    return done.stdout.strip()


def until(what, ask, last=None):
    """Asks again until the answer is true; answers it. A failure shows what was learned `last`."""
    deadline = time.monotonic() + BOOT_S
    while True:
        asked = time.monotonic()
        answer = ask()
        if answer:
            return answer
        now = time.monotonic()
        assert now < deadline, f"{what}: not within {BOOT_S} s: {last}"
        # A login doesn't take the processor from the guest that is waited for.
        time.sleep(min(max(3 * (now - asked), 0.1), 1))


def boot_id(instance, key, other_than=None):
    """The id of the guest's boot, as soon as it answers on SSH with another one."""
    last = {"words": ""}

    def ask():
        done = ssh(instance, key, "cat /proc/sys/kernel/random/boot_id", may_fail=True)
        text = done.stdout.strip()
        if done.returncode == 0 and text != other_than:
            return text
        last["words"] = done.stderr
        return None

    return until(f"{instance} answers on SSH", ask, last)


def describe(tool, *ids):
    answer = tool.call("DescribeInstances", InstanceIds=list(ids))
    rows = [row for reservation in answer["Reservations"] for row in reservation["Instances"]]
    rows = {row["InstanceId"]: row for row in rows}
    return rows[ids[0]] if len(ids) == 1 else [rows[one] for one in ids]


def make_key(tool, name, kind):
    made = tool.call("CreateKeyPair", KeyName=name, KeyType=kind)
    assert made["KeyName"] == name and made["KeyPairId"].startswith("key-")
    path = FILES / f"{name}.pem"
    path.touch(mode=0o600)
    path.write_text(made["KeyMaterial"])
    return path


def open_group(tool, name):
    vpc = tool.call("DescribeVpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])
    vpc = vpc["Vpcs"][0]["VpcId"]
    group = tool.call("CreateSecurityGroup", GroupName=name, Description="a tour", VpcId=vpc)
    rule = {
        "IpProtocol": "tcp",
        "FromPort": 22,
        "ToPort": 22,
        "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "from anywhere"}],
    }
    tool.call("AuthorizeSecurityGroupIngress", GroupId=group["GroupId"], IpPermissions=[rule])
    return group["GroupId"]


USER_DATA = """#!/bin/sh
echo "user data of $(hostname) ran"
echo done >/root/user-data-ran
"""


def tour(tool):
    """Key pair, group, two instances, SSH, user data, console, stop, modify, start, reboot, end."""
    key = make_key(tool, "tour-rsa", "rsa")
    other_key = make_key(tool, "tour-ed25519", "ed25519")
    group = open_group(tool, "tour")
    image = tool.call("DescribeImages", ImageIds=[IMAGE])["Images"][0]
    disk = {"DeviceName": image["RootDeviceName"], "Ebs": {"VolumeSize": 2}}
    tags = [{"Key": "Name", "Value": "tourist"}]
    ran = tool.call(
        "RunInstances",
        ImageId=IMAGE,
        InstanceType="m1.small",
        MinCount=2,
        MaxCount=2,
        KeyName="tour-rsa",
        SecurityGroupIds=[group],
        UserData=USER_DATA,
        BlockDeviceMappings=[disk],
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    ids = [row["InstanceId"] for row in ran["Instances"]]
    assert len(ids) == 2 and all(row["State"]["Name"] == "pending" for row in ran["Instances"])
    first, second = ids
    tool.wait("instance_running", ids)
    say("two instances run")
    rows = describe(tool, *ids)
    addresses = [row["PrivateIpAddress"] for row in rows]
    assert len(set(addresses)) == 2 and all(one.startswith("172.31.") for one in addresses)
    assert all(row["Tags"] == tags and row["KeyName"] == "tour-rsa" for row in rows)

    boots = [boot_id(one, key) for one in ids]
    say("both answer on SSH")
    assert boots[0] != boots[1]
    for one, address in zip(ids, addresses):
        until("user data ran", lambda one=one: ssh(one, key, "cat /root/user-data-ran || true"))
        assert address in ssh(one, key, "ifconfig eth0")
    megabytes = int(ssh(first, key, "df -m / | tail -1").split()[1])
    assert 1900 < megabytes < 2100, f"the root file system has {megabytes} MB"
    refused = ssh(first, other_key, "true", may_fail=True)
    assert refused.returncode == 255 and "Permission denied" in refused.stderr, refused
    host_name = ssh(first, key, "hostname")
    words = f"user data of {host_name} ran"
    until("the console says so", lambda: words in console(tool, first))
    tool.wait("instance_status_ok", ids)
    say("status checks pass")

    stop_and_start(tool, key, first, addresses[0], boots[0])
    tool.call("RebootInstances", InstanceIds=[second])
    boot_id(second, key, other_than=boots[1])
    assert describe(tool, second)["State"]["Name"] == "running"
    say("rebooted")

    ended = tool.call("TerminateInstances", InstanceIds=ids)["TerminatingInstances"]
    assert {row["PreviousState"]["Name"] for row in ended} == {"running"}
    tool.wait("instance_terminated", ids)
    for row in describe(tool, *ids):
        assert row["StateReason"]["Code"] == "Client.UserInitiatedShutdown", row["StateReason"]
        assert row["Tags"] == tags, "terminated instances keep their tags for a while"
    for one in ids:
        assert "boira: ssh ready" in console(tool, one), "and what their consoles said last"
    attached = [{"Name": "attachment.instance-id", "Values": ids}]
    assert tool.call("DescribeVolumes", Filters=attached)["Volumes"] == []
    tool.call("DeleteSecurityGroup", GroupId=group)
    for name in ["tour-rsa", "tour-ed25519"]:
        tool.call("DeleteKeyPair", KeyName=name)
    assert tool.call("DescribeKeyPairs")["KeyPairs"] == []
    say("terminated and cleared away")


def console(tool, instance):
    return tool.call("GetConsoleOutput", InstanceId=instance, Latest=True).get("Output", "")


def stop_and_start(tool, key, instance, address, boot):
    # Not synced: a clean stop writes it.
    ssh(instance, key, "echo kept >/root/note")
    tool.call("StopInstances", InstanceIds=[instance])
    tool.wait("instance_stopped", [instance])
    row = describe(tool, instance)
    assert row["PrivateIpAddress"] == address
    assert row["StateReason"]["Code"] == "Client.UserInitiatedShutdown", row["StateReason"]
    assert row["StateTransitionReason"].startswith("User initiated ("), row["StateTransitionReason"]
    kind = {"Value": "c1.medium"}
    tool.call("ModifyInstanceAttribute", InstanceId=instance, InstanceType=kind)
    started = tool.call("StartInstances", InstanceIds=[instance])["StartingInstances"][0]
    assert started["PreviousState"]["Name"] == "stopped"
    tool.wait("instance_running", [instance])
    row = describe(tool, instance)
    assert row["InstanceType"] == "c1.medium" and row["PrivateIpAddress"] == address
    assert boot_id(instance, key) != boot
    assert ssh(instance, key, "cat /root/note") == "kept"
    assert address in ssh(instance, key, "ifconfig eth0")
    kibibytes = int(ssh(instance, key, "grep MemTotal /proc/meminfo").split()[1])
    assert 190_000 < kibibytes < 262_144, f"c1.medium has {kibibytes} KiB"
    assert ssh(instance, key, "cat /root/user-data-ran") == "done", "user data runs once"
    say("stopped, modified, started")


def guests_switch_themselves_off():
    """`poweroff` in a guest follows its shutdown behaviour; its reason is its own."""
    key = make_key(Boto3(), "off", "ed25519")
    group = open_group(Boto3(), "off")
    common = {"ImageId": IMAGE, "InstanceType": "m1.small", "MinCount": 1, "MaxCount": 1}
    common |= {"KeyName": "off", "SecurityGroupIds": [group]}
    ids = {}
    for behaviour in ["stop", "terminate"]:
        ran = EC2.run_instances(InstanceInitiatedShutdownBehavior=behaviour, **common)
        ids[behaviour] = ran["Instances"][0]["InstanceId"]
    for one in ids.values():
        boot_id(one, key)
        ssh(one, key, "(sleep 1; poweroff) >/dev/null 2>&1 &")
    Boto3().wait("instance_stopped", [ids["stop"]])
    Boto3().wait("instance_terminated", [ids["terminate"]])
    for one in ids.values():
        reason = describe(Boto3(), one)["StateReason"]
        assert reason["Code"] == "Client.InstanceInitiatedShutdown", reason
    say("guests switched themselves off")
    EC2.terminate_instances(InstanceIds=[ids["stop"]])
    Boto3().wait("instance_terminated", [ids["stop"]])


def refused(code, status, operation, client=EC2, **parameters):
    try:
        getattr(client, operation)(**parameters)
    except botocore.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == code, f"{operation} {parameters}: {error}"
        about = error.response["ResponseMetadata"]
        answered = about["HTTPStatusCode"]
        assert answered == status, f"{code} came with status {answered}"
        assert about["RequestId"] == about["HTTPHeaders"]["x-amzn-requestid"], about
        return error
    raise AssertionError(f"{operation} {parameters} was not refused with {code}")


def strangers_are_refused():
    def client(**keys):
        return boto3.client("ec2", config=CONFIG, **keys)

    known = os.environ["AWS_ACCESS_KEY_ID"]
    wrong = client(aws_access_key_id=known, aws_secret_access_key="wrong")
    refused("AuthFailure", 401, "describe_instances", wrong)
    stranger = client(aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="x")
    refused("AuthFailure", 401, "describe_instances", stranger)
    elsewhere = client(region_name="eu-west-3")
    refused("AuthFailure", 401, "describe_instances", elsewhere)
    for tool in ["v1", "v2"]:
        program = TOOLS[tool]().command
        environment = os.environ | {"AWS_SECRET_ACCESS_KEY": "wrong"}
        done = subprocess.run([*program, "ec2", "describe-instances"], env=environment,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode in (254, 255) and "AuthFailure" in done.stderr, done


def ids_are_checked():
    unknown = {"InstanceIds": ["i-0123456789abcdef0"]}
    for operation in ["describe_instances", "start_instances", "stop_instances",
                      "reboot_instances", "terminate_instances", "describe_instance_status"]:
        refused("InvalidInstanceID.NotFound", 400, operation, **unknown)
        refused("InvalidInstanceID.Malformed", 400, operation, InstanceIds=["i-xyz"])
    refused("InvalidInstanceID.NotFound", 400, "describe_instances", InstanceIds=["i-01234567"])
    refused("InvalidAMIID.NotFound", 400, "describe_images", ImageIds=["ami-0123456789abcdef0"])
    refused("InvalidAMIID.Malformed", 400, "describe_images", ImageIds=["tiny"])
    refused("InvalidKeyPair.NotFound", 400, "describe_key_pairs", KeyNames=["nobody"])
    refused("InvalidVolume.NotFound", 400, "describe_volumes", VolumeIds=["vol-0123456789abcdef0"])
    refused("InvalidGroup.NotFound", 400, "describe_security_groups", GroupIds=["sg-0123456789abcdef0"])
    refused("InvalidVpcID.NotFound", 400, "describe_vpcs", VpcIds=["vpc-0123456789abcdef0"])
    refused("InvalidSubnetID.NotFound", 400, "describe_subnets", SubnetIds=["subnet-0123456789abcdef0"])


def requests_are_checked():
    run = {"ImageId": IMAGE, "InstanceType": "m1.small", "MinCount": 1, "MaxCount": 1}
    refused("DryRunOperation", 412, "run_instances", DryRun=True, **run)
    refused("DryRunOperation", 412, "describe_instances", DryRun=True)
    refused("InvalidParameterValue", 400, "run_instances", **run | {"InstanceType": "x9.huge"})
    refused("InvalidAMIID.NotFound", 400, "run_instances", **run | {"ImageId": "ami-0123456789abcdef0"})
    refused("InvalidKeyPair.NotFound", 400, "run_instances", KeyName="nobody", **run)
    refused("InvalidParameterValue", 400, "run_instances", **run | {"MinCount": 3})
    aws_tags = [{"ResourceType": "instance", "Tags": [{"Key": "aws:x", "Value": "y"}]}]
    refused("InvalidParameterValue", 400, "run_instances", TagSpecifications=aws_tags, **run)
    many = [{"Key": f"k{n}", "Value": "v"} for n in range(51)]
    many = [{"ResourceType": "instance", "Tags": many}]
    refused("TagLimitExceeded", 400, "run_instances", TagSpecifications=many, **run)
    refused("InvalidParameterValue", 400, "run_instances", UserData="x" * 16_385, **run)
    refused("InvalidParameterCombination", 400, "describe_instances",
            InstanceIds=["i-0123456789abcdef0"], MaxResults=5)
    refused("InvalidParameterValue", 400, "describe_instances",
            Filters=[{"Name": "no-such-filter", "Values": ["x"]}])
    refused("UnsupportedOperation", 400, "create_transit_gateway")
    assert describe_all() == [], "what is refused starts nothing"
    assert boto3.client("sts", config=CONFIG).get_caller_identity()["Account"].isdigit()


def describe_all():
    pages = EC2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5})
    return [row for page in pages for one in page["Reservations"] for row in one["Instances"]]


def a_token_launches_once():
    run = {"ImageId": IMAGE, "InstanceType": "m1.small", "MinCount": 1, "MaxCount": 1}
    run["ClientToken"] = "once"
    first = EC2.run_instances(**run)
    again = EC2.run_instances(**run)
    assert first["ReservationId"] == again["ReservationId"]
    ids = [row["InstanceId"] for row in first["Instances"]]
    assert ids == [row["InstanceId"] for row in again["Instances"]]
    refused("IdempotentParameterMismatch", 400, "run_instances", **run | {"InstanceType": "c1.medium"})
    assert len(describe_all()) == 1
    age = datetime.datetime.now(datetime.timezone.utc) - describe_all()[0]["LaunchTime"]
    assert abs(age.total_seconds()) < 120
    EC2.terminate_instances(InstanceIds=ids)
    EC2.terminate_instances(InstanceIds=ids)
    mixed = [*ids, "i-0123456789abcdef0"]
    refused("InvalidInstanceID.NotFound", 400, "terminate_instances", InstanceIds=mixed)


def lists_come_in_pages():
    made = [EC2.create_security_group(GroupName=f"page-{n:02}", Description="x")["GroupId"]
            for n in range(12)]
    pages = list(EC2.get_paginator("describe_security_groups").paginate(
        Filters=[{"Name": "group-name", "Values": ["page-*"]}], PaginationConfig={"PageSize": 5}))
    found = [row["GroupId"] for page in pages for row in page["SecurityGroups"]]
    assert len(pages) == 3 and sorted(found) == sorted(made), [len(pages), len(found)]
    types = EC2.get_paginator("describe_instance_types").paginate(PaginationConfig={"PageSize": 6})
    names = [row["InstanceType"] for page in types for row in page["InstanceTypes"]]
    assert len(names) == len(set(names)) and {"m1.small", "t3.micro", "m5.large"} <= set(names)
    for one in made:
        EC2.delete_security_group(GroupId=one)


def clis_page_and_try():
    """Instances of several launches over several pages, and calls that only try."""
    before = {row["InstanceId"] for row in describe_all()}
    run = {"ImageId": IMAGE, "InstanceType": "m1.small"}
    made = []
    for count in [3, 1, 2]:
        ran = EC2.run_instances(MinCount=count, MaxCount=count, **run)
        made += [row["InstanceId"] for row in ran["Instances"]]
    # Terminated ones stay visible for an hour, and two cores have nothing to emulate.
    EC2.terminate_instances(InstanceIds=made)
    expected = sorted(before | set(made))
    pages = list(EC2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
    assert len(pages) > 1, "more than a page"
    assert sorted(row["InstanceId"] for row in describe_all()) == expected
    for version in ["v1", "v2"]:
        tool = TOOLS[version]()
        answer = tool.call("DescribeInstances", "--page-size", "5")
        found = [row["InstanceId"] for one in answer["Reservations"] for row in one["Instances"]]
        assert sorted(found) == expected, f"{version}: {found}"
        tried = tool.run("RunInstances", "--dry-run", MinCount=1, MaxCount=1, **run)
        assert tried.returncode in (254, 255) and "DryRunOperation" in tried.stderr, tried
    assert sorted(row["InstanceId"] for row in describe_all()) == expected, "trying starts nothing"


def presigned_urls_work():
    url = EC2.generate_presigned_url("describe_regions", ExpiresIn=60, HttpMethod="GET")
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    assert "<regionName>us-east-1</regionName>" in text, text
    assert ENDPOINT.removeprefix("http://") in text, "regions name this cloud's own endpoint"
    try:
        urllib.request.urlopen(url.replace("DescribeRegions", "DescribeVpcs"), timeout=20)
    except urllib.error.HTTPError as error:
        assert error.code == 401 and b"AuthFailure" in error.read()
    else:
        raise AssertionError("a changed URL keeps its signature")


def main():
    tool = TOOLS[TOOL]()
    tour(tool)
    if TOOL == "boto3":
        guests_switch_themselves_off()


def details():
    for check in [strangers_are_refused, ids_are_checked, requests_are_checked,
                  lists_come_in_pages, presigned_urls_work, a_token_launches_once,
                  clis_page_and_try]:
        check()
        say(check.__name__)


details() if TOOL == "details" else main()
