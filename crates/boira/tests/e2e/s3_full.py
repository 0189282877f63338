"""Fills the object store's disk: what doesn't fit is refused, what was acknowledged is read, and deleting
makes room again. The environment is what `boira env` prints.
"""

import os
import time

import boto3
import botocore.config
import botocore.exceptions

MIB = 1 << 20
S3 = boto3.client("s3", config=botocore.config.Config(retries={"max_attempts": 1, "mode": "standard"}))
S3.create_bucket(Bucket="full")


def refused(key, data):
    try:
        S3.put_object(Bucket="full", Key=key, Body=data)
    except botocore.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == "InsufficientStorage", error
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 507, error
        return True
    return False


kept = {}
for number in range(100):
    data = os.urandom(5 * MIB)
    if refused(f"large-{number}", data):
        break
    kept[f"large-{number}"] = data
assert 3 < len(kept) < 30, len(kept)
# Little things still fit, until they don't.
small = 0
while small < 2000 and not refused(f"small-{small}", b"x" * 60000):
    kept[f"small-{small}"] = b"x" * 60000
    small += 1
print(f"{len(kept)} objects fitted, {small} of them small")
assert small < 2000
for key, data in kept.items():
    assert S3.get_object(Bucket="full", Key=key)["Body"].read() == data, key
upload = S3.create_multipart_upload(Bucket="full", Key="parts")["UploadId"]
try:
    S3.upload_part(Bucket="full", Key="parts", UploadId=upload, PartNumber=1, Body=os.urandom(20 * MIB))
    raise AssertionError("a part was taken for which there is no room")
except botocore.exceptions.ClientError as error:
    assert error.response["Error"]["Code"] == "InsufficientStorage", error
# Copies need no bytes; deleting goes on, and its room comes back.
S3.copy_object(Bucket="full", Key="copy", CopySource="full/large-0")
S3.delete_objects(Bucket="full", Delete={"Objects": [{"Key": f"large-{number}"} for number in range(3)]})
data = os.urandom(5 * MIB)
deadline = time.monotonic() + 20
while refused("again", data):
    assert time.monotonic() < deadline, "no room came back"
    time.sleep(0.1)
assert S3.get_object(Bucket="full", Key="again")["Body"].read() == data
assert S3.get_object(Bucket="full", Key="copy")["Body"].read() == kept["large-0"]
