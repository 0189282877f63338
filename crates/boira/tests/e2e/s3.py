"""What boto3 expects of S3, detail by detail: each function is one chapter with a bucket of its own.

The environment is what `boira env` prints. Arguments: names of chapters; all of them without.
"""

import base64
import datetime
import email.header
import email.utils
import hashlib
import hmac
import io
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib

import boto3
import boto3.s3.transfer
import botocore.config
import botocore.exceptions

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
MIB = 1 << 20


def client(aws_access_key_id=None, aws_secret_access_key=None, **options):
    retries = {"max_attempts": 1, "mode": "standard"}
    return boto3.client("s3", config=botocore.config.Config(retries=retries, **options),
                        aws_access_key_id=aws_access_key_id, aws_secret_access_key=aws_secret_access_key)


S3 = client()
# Its presigned URLs, too, have signatures of version 4.
V4 = client(signature_version="s3v4")


def friend():
    """A client of another account."""
    key, secret = os.environ["OTHER_KEYS"].split(":")
    return client(aws_access_key_id=key, aws_secret_access_key=secret)


class refused:
    """Wants an error with this code, and status where one is given."""

    def __init__(self, code, status=None):
        self.code, self.status = code, status

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert error is not None, f"{self.code} was wanted, and there is no error"
        if not isinstance(error, botocore.exceptions.ClientError):
            return False
        found = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert found == self.code, f"{self.code} was wanted: {error}"
        assert self.status in (None, status), f"{self.status} was wanted: {status}"
        self.response = error.response
        return True


def body(**named):
    return S3.get_object(**named)["Body"].read()


def raw(method, path, data=None, headers=None):
    """A request without any client, as its status, headers and text."""
    url = path if path.startswith("http") else ENDPOINT + path
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read()


def buckets(bucket):
    assert bucket in [one["Name"] for one in S3.list_buckets()["Buckets"]]
    page = S3.list_buckets(MaxBuckets=1, Prefix=bucket)
    assert [one["Name"] for one in page["Buckets"]] == [bucket], page
    assert page["Buckets"][0]["BucketRegion"] == "us-east-1"
    assert S3.list_buckets(Prefix=bucket)["Buckets"][0]["BucketRegion"] == "us-east-1"
    S3.create_bucket(Bucket=bucket + "-2")
    page = S3.list_buckets(MaxBuckets=1, Prefix=bucket)
    rest = S3.list_buckets(MaxBuckets=1, Prefix=bucket, ContinuationToken=page["ContinuationToken"])
    assert [one["Name"] for one in rest["Buckets"]] == [bucket + "-2"] and "ContinuationToken" not in rest, rest
    with refused("InvalidArgument", 400):
        S3.list_buckets(ContinuationToken="made-up")
    S3.delete_bucket(Bucket=bucket + "-2")
    for space, (status, code) in {"account-regional": (501, b"NotImplemented"), "x": (400, b"InvalidArgument")}.items():
        headers = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-bucket-namespace": space}
        found, _, text = raw("PUT", f"/{bucket}", headers=signed_headers(f"/{bucket}", headers))
        assert found == status and code in text, text
    head = S3.head_bucket(Bucket=bucket)
    assert head["BucketRegion"] == "us-east-1", head
    assert S3.get_bucket_location(Bucket=bucket).get("LocationConstraint") is None
    # us-east-1 lets its owner create a bucket again.
    S3.create_bucket(Bucket=bucket)
    for name in ["ab", "Upper", "a..b", "192.168.1.1", "services", "boira", "a" * 64]:
        unchecked = client(s3={"addressing_style": "path"})
        unchecked.meta.events.unregister("before-parameter-build.s3", botocore.handlers.validate_bucket_name)
        with refused("InvalidBucketName", 400):
            unchecked.create_bucket(Bucket=name)
    with refused("InvalidLocationConstraint", 400):
        S3.create_bucket(Bucket=bucket + "-x", CreateBucketConfiguration={"LocationConstraint": "us-east-1"})
    with refused("InvalidLocationConstraint", 400):
        S3.create_bucket(Bucket=bucket + "-x", CreateBucketConfiguration={"LocationConstraint": "nowhere"})
    with refused("IllegalLocationConstraintException", 400):
        S3.create_bucket(Bucket=bucket + "-x", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    with refused("404", 404):
        S3.head_bucket(Bucket=bucket + "-none")
    with refused("NoSuchBucket", 404):
        S3.list_objects_v2(Bucket=bucket + "-none")
    with refused("NoSuchBucket", 404):
        S3.put_object(Bucket=bucket + "-none", Key="k", Body=b"x")
    S3.put_object(Bucket=bucket, Key="k")
    with refused("BucketNotEmpty", 409):
        S3.delete_bucket(Bucket=bucket)
    S3.delete_object(Bucket=bucket, Key="k")
    upload = S3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    S3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x")
    S3.delete_bucket(Bucket=bucket)
    with refused("NoSuchBucket", 404):
        S3.delete_bucket(Bucket=bucket)
    S3.create_bucket(Bucket=bucket)


def plain_answers(bucket):
    """What Terraform and consoles read of a bucket with which nothing was done."""
    for name, code in [
        ("policy", "NoSuchBucketPolicy"),
        ("cors", "NoSuchCORSConfiguration"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("lifecycle_configuration", "NoSuchLifecycleConfiguration"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("encryption", "ServerSideEncryptionConfigurationNotFoundError"),
        ("tagging", "NoSuchTagSet"),
    ]:
        with refused(code, 404):
            getattr(S3, f"get_bucket_{name}")(Bucket=bucket)
    with refused("ObjectLockConfigurationNotFoundError", 404):
        S3.get_object_lock_configuration(Bucket=bucket)
    assert "Status" not in S3.get_bucket_versioning(Bucket=bucket)
    assert "LoggingEnabled" not in S3.get_bucket_logging(Bucket=bucket)
    assert "Status" not in S3.get_bucket_accelerate_configuration(Bucket=bucket)
    assert S3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    S3.get_bucket_notification_configuration(Bucket=bucket)
    rules = S3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert rules == [{"ObjectOwnership": "BucketOwnerEnforced"}], rules
    block = S3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}, block
    acl = S3.get_bucket_acl(Bucket=bucket)
    assert [grant["Permission"] for grant in acl["Grants"]] == ["FULL_CONTROL"], acl
    assert acl["Owner"]["ID"] == acl["Grants"][0]["Grantee"]["ID"]
    S3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "a", "Value": "b c"}]})
    assert S3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "a", "Value": "b c"}]
    S3.delete_bucket_tagging(Bucket=bucket)
    with refused("NoSuchTagSet"):
        S3.get_bucket_tagging(Bucket=bucket)
    with refused("AccessControlListNotSupported", 400):
        S3.put_object(Bucket=bucket, Key="k", ACL="public-read")
    with refused("NotImplemented", 501):
        S3.put_object(Bucket=bucket, Key="k", ServerSideEncryption="aws:kms")
    with refused("NotImplemented", 501):
        S3.put_bucket_website(Bucket=bucket, WebsiteConfiguration={"IndexDocument": {"Suffix": "i"}})


def objects(bucket):
    when = datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)
    for size in [0, 1, 65536, 65537, 262144, 3 * MIB + 7]:
        data = os.urandom(size)
        put = S3.put_object(
            Bucket=bucket, Key=f"o/{size} ü&+?%", Body=data, Metadata={"one": "1", "two": "zwei"},
            ContentType="text/x", CacheControl="no-store", ContentLanguage="ca", Expires=when,
            ContentDisposition="attachment", ContentEncoding="br", StorageClass="STANDARD_IA",
        )
        assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"', put
        got = S3.get_object(Bucket=bucket, Key=f"o/{size} ü&+?%")
        assert got["Body"].read() == data
        head = S3.head_object(Bucket=bucket, Key=f"o/{size} ü&+?%")
        for answer in [got, head]:
            assert answer["ContentLength"] == size and answer["ETag"] == put["ETag"]
            assert answer["Metadata"] == {"one": "1", "two": "zwei"}, answer
            assert answer["ContentType"] == "text/x" and answer["CacheControl"] == "no-store"
            assert answer["ContentLanguage"] == "ca" and answer["ContentEncoding"] == "br"
            assert answer["ContentDisposition"] == "attachment"
            assert answer["StorageClass"] == "STANDARD_IA"
            assert answer["ExpiresString"] == "Tue, 06 May 2031 07:08:09 GMT", answer
            assert "VersionId" not in answer
    got = S3.get_object(
        Bucket=bucket, Key="o/1 ü&+?%", ResponseContentType="a/b", ResponseCacheControl="c",
        ResponseContentDisposition="d", ResponseContentEncoding="e", ResponseContentLanguage="f",
    )
    assert (got["ContentType"], got["CacheControl"], got["ContentDisposition"]) == ("a/b", "c", "d")
    S3.put_object(Bucket=bucket, Key="plain", Body=b"p")
    plain = S3.head_object(Bucket=bucket, Key="plain")
    assert plain["ContentType"] == "binary/octet-stream" and "StorageClass" not in plain, plain
    for operation in [S3.get_object, S3.get_object_tagging, S3.get_object_acl]:
        with refused("NoSuchKey", 404):
            operation(Bucket=bucket, Key="none")
    with refused("404", 404):
        S3.head_object(Bucket=bucket, Key="none")
    with refused("KeyTooLongError", 400):
        S3.put_object(Bucket=bucket, Key="k" * 1025, Body=b"x")
    S3.put_object(Bucket=bucket, Key="k" * 1024, Body=b"x")
    with refused("MetadataTooLarge", 400):
        S3.put_object(Bucket=bucket, Key="m", Metadata={"m": "x" * 2048})
    with refused("InvalidStorageClass", 400):
        S3.put_object(Bucket=bucket, Key="m", StorageClass="CUPBOARD")
    # A key is bytes, whatever a path would mean by it.
    for key in ["../../etc/passwd", "/leading", "a//b", "./x", "trailing/", "a/../b", "\u2028", "%2F"]:
        S3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert body(Bucket=bucket, Key=key) == key.encode(), key
        S3.delete_object(Bucket=bucket, Key=key)
    S3.delete_object(Bucket=bucket, Key="never was")


def ranges(bucket):
    for size in [1000, 700_001]:
        data = os.urandom(size)
        S3.put_object(Bucket=bucket, Key="k", Body=data)
        for wanted, start, end in [
            ("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=990-", 990, size),
            ("bytes=-7", size - 7, size), ("bytes=-9999999", 0, size), (f"bytes=5-{size * 2}", 5, size),
            (f"bytes={size // 2 - 3}-{size // 2 + 3}", size // 2 - 3, size // 2 + 4),
        ]:
            got = S3.get_object(Bucket=bucket, Key="k", Range=wanted)
            assert got["Body"].read() == data[start:end], wanted
            assert got["ContentRange"] == f"bytes {start}-{end - 1}/{size}", got["ContentRange"]
            assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
            head = S3.head_object(Bucket=bucket, Key="k", Range=wanted)
            assert head["ContentLength"] == end - start
        for wanted in [f"bytes={size}-", "bytes=-0"]:
            with refused("InvalidRange", 416):
                S3.get_object(Bucket=bucket, Key="k", Range=wanted)
        # What S3 doesn't understand is no range, whether or not a signature covers it.
        url = S3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
        for wanted in ["bytes=5-3", "bytes=0-1,4-5", "bytes=a-b", "bytes=", "lines=1-2", "x"]:
            got = S3.get_object(Bucket=bucket, Key="k", Range=wanted)
            assert got["Body"].read() == data and "ContentRange" not in got, wanted
            assert got["ResponseMetadata"]["HTTPStatusCode"] == 200
            status, _, answer = raw("GET", url, headers={"Range": wanted})
            assert status == 200 and answer == data, wanted
            signed = V4.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k", "Range": wanted})
            assert raw("GET", signed, headers={"Range": wanted})[2] == data, wanted
            assert raw("GET", signed, headers={"Range": wanted + "x"})[0] == 403, wanted
        S3.put_object(Bucket=bucket, Key="k", Body=b"")
        assert S3.get_object(Bucket=bucket, Key="k", Range="bytes=x")["ContentLength"] == 0


def conditions(bucket):
    tag = S3.put_object(Bucket=bucket, Key="k", Body=b"one", CacheControl="max-age=5")["ETag"]
    hour = datetime.timedelta(hours=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    named = {"Bucket": bucket, "Key": "k"}
    for operation in [S3.get_object, S3.head_object]:
        operation(**named, IfMatch=tag)
        operation(**named, IfNoneMatch='"other"')
        operation(**named, IfModifiedSince=now - hour)
        operation(**named, IfUnmodifiedSince=now + hour)
        operation(**named, IfMatch=tag, IfUnmodifiedSince=now - hour)
        with refused("304", 304):
            operation(**named, IfNoneMatch=tag)
        with refused("304", 304) as not_modified:
            operation(**named, IfModifiedSince=now + hour - hour + datetime.timedelta(seconds=2))
        said = not_modified.response["ResponseMetadata"]["HTTPHeaders"]
        assert (said["etag"], said["cache-control"]) == (tag, "max-age=5")
        modified = operation(**named)["ResponseMetadata"]["HTTPHeaders"]["last-modified"]
        assert said["last-modified"] == modified
        assert "content-length" not in said, said
    with refused("404", 404) as absent:
        S3.head_object(Bucket=bucket, Key="none")
    assert "content-length" not in absent.response["ResponseMetadata"]["HTTPHeaders"]
    with refused("PreconditionFailed", 412):
        S3.get_object(**named, IfMatch='"other"')
    with refused("PreconditionFailed", 412):
        S3.get_object(**named, IfUnmodifiedSince=now - hour)
    with refused("PreconditionFailed", 412):
        S3.put_object(**named, Body=b"two", IfNoneMatch="*")
    with refused("PreconditionFailed", 412):
        S3.put_object(**named, Body=b"two", IfMatch='"other"')
    S3.put_object(**named, Body=b"two", IfMatch=tag)
    assert body(**named) == b"two"
    with refused("NoSuchKey", 404):
        S3.put_object(Bucket=bucket, Key="none", Body=b"x", IfMatch=tag)
    S3.put_object(Bucket=bucket, Key="new", Body=b"x", IfNoneMatch="*")
    # Of many who create, one succeeds.
    won = []

    def create(n):
        try:
            client().put_object(Bucket=bucket, Key="race", Body=str(n).encode(), IfNoneMatch="*")
            won.append(n)
        except botocore.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed", error

    threads = [threading.Thread(target=create, args=[n]) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1 and body(Bucket=bucket, Key="race") == str(won[0]).encode(), won


def listing(bucket):
    keys = ["a", "a/b", "a/c/d", "b", "b/", "c d/e+f", "c d/ü", "e&f<g>", "z" * 200, "\U0001f600", "\ufffd"]
    for key in keys:
        S3.put_object(Bucket=bucket, Key=key, Body=b"x")
    in_order = sorted(keys, key=lambda key: key.encode())
    found = [one["Key"] for one in S3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert found == in_order, found
    for call, token, given in [
        (S3.list_objects_v2, "NextContinuationToken", "ContinuationToken"),
        (S3.list_objects, None, "Marker"),
    ]:
        for delimiter in ["", "/", "+", "b"]:
            whole = call(Bucket=bucket, Delimiter=delimiter)
            wanted = [one["Key"] for one in whole.get("Contents", [])]
            prefixes = [one["Prefix"] for one in whole.get("CommonPrefixes", [])]
            entries, commons, page = [], [], {}
            while True:
                more = call(Bucket=bucket, Delimiter=delimiter, MaxKeys=2, **page)
                names = [one["Key"] for one in more.get("Contents", [])]
                common = [one["Prefix"] for one in more.get("CommonPrefixes", [])]
                assert len(names) + len(common) <= 2
                entries, commons = entries + names, commons + common
                if not more["IsTruncated"]:
                    break
                page = {given: more[token] if token else more.get("NextMarker") or names[-1]}
            assert (entries, commons) == (wanted, prefixes), (delimiter, entries, commons)
    page = S3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["a/", "b/", "c d/"], page
    assert page["KeyCount"] == 9, page
    page = S3.list_objects_v2(Bucket=bucket, Prefix="a/", Delimiter="/", StartAfter="a/b")
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["a/c/"] and "Contents" not in page
    assert page["StartAfter"] == "a/b"
    page = S3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert page["KeyCount"] == 0 and not page["IsTruncated"]
    page = S3.list_objects_v2(Bucket=bucket, EncodingType="url", Prefix="c d/")
    assert [one["Key"] for one in page["Contents"]] == ["c%20d/e%2Bf", "c%20d/%C3%BC"], page
    assert page["Prefix"] == "c%20d/"
    assert "Owner" not in S3.list_objects_v2(Bucket=bucket)["Contents"][0]
    owner = S3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]["Owner"]["ID"]
    assert len(owner) == 64
    with refused("InvalidArgument", 400):
        S3.list_objects_v2(Bucket=bucket, ContinuationToken="nonsense")
    with refused("InvalidArgument", 400):
        S3.list_objects_v2(Bucket=bucket, MaxKeys=-1)


def copying(bucket):
    data = os.urandom(400_000)
    S3.put_object(Bucket=bucket, Key="src ü", Body=data, Metadata={"a": "1"}, ContentType="t/1",
                  Tagging="k=v")
    source = {"Bucket": bucket, "Key": "src ü"}
    S3.copy_object(Bucket=bucket, Key="dst", CopySource=source)
    head = S3.head_object(Bucket=bucket, Key="dst")
    assert head["Metadata"] == {"a": "1"} and head["ContentType"] == "t/1"
    assert S3.get_object_tagging(Bucket=bucket, Key="dst")["TagSet"] == [{"Key": "k", "Value": "v"}]
    S3.copy_object(Bucket=bucket, Key="dst", CopySource=source, MetadataDirective="REPLACE",
                   Metadata={"b": "2"}, TaggingDirective="REPLACE", Tagging="x=y")
    head = S3.head_object(Bucket=bucket, Key="dst")
    assert head["Metadata"] == {"b": "2"} and head["ContentType"] == "binary/octet-stream", head
    assert S3.get_object_tagging(Bucket=bucket, Key="dst")["TagSet"] == [{"Key": "x", "Value": "y"}]
    with refused("InvalidRequest", 400):
        S3.copy_object(Bucket=bucket, Key="src ü", CopySource=source)
    S3.copy_object(Bucket=bucket, Key="src ü", CopySource=source, MetadataDirective="REPLACE")
    tag = head["ETag"]
    S3.copy_object(Bucket=bucket, Key="d2", CopySource=source, CopySourceIfMatch=tag)
    with refused("PreconditionFailed", 412):
        S3.copy_object(Bucket=bucket, Key="d3", CopySource=source, CopySourceIfNoneMatch=tag)
    with refused("NoSuchKey", 404):
        S3.copy_object(Bucket=bucket, Key="d3", CopySource={"Bucket": bucket, "Key": "none"})
    with refused("NoSuchBucket", 404):
        S3.copy_object(Bucket=bucket, Key="d3", CopySource={"Bucket": bucket + "-none", "Key": "x"})
    with refused("PreconditionFailed", 412):
        S3.copy_object(Bucket=bucket, Key="d2", CopySource=source, IfNoneMatch="*")
    S3.copy_object(Bucket=bucket, Key="d2", CopySource=source, IfMatch=tag)
    summed = S3.copy_object(Bucket=bucket, Key="d4", CopySource=source, ChecksumAlgorithm="SHA256")
    wanted = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert summed["CopyObjectResult"]["ChecksumSHA256"] == wanted
    # Encoded as a form is (s5cmd), and not at all (fog).
    for key, source in [("plus", f"{bucket}/src+%C3%BC"), ("bare", f"{bucket}/src ü")]:
        path = f"/{bucket}/{key}"
        headers = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-copy-source": source}
        # As bytes of UTF-8, which are what is signed.
        sent = {**signed_headers(path, headers), "x-amz-copy-source": source.encode().decode("latin-1")}
        status, _, text = raw("PUT", path, headers=sent)
        assert status == 200 and body(Bucket=bucket, Key=key) == data, text
    # The bytes belong to whoever is left.
    S3.delete_object(Bucket=bucket, Key="src ü")
    assert body(Bucket=bucket, Key="d2") == data


def checksums(bucket):
    data = os.urandom(300_000)
    sha1 = base64.b64encode(hashlib.sha1(data).digest()).decode()
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
        try:
            put = S3.put_object(Bucket=bucket, Key=algorithm, Body=data, ChecksumAlgorithm=algorithm)
        except botocore.exceptions.MissingDependencyException:
            continue
        name = f"Checksum{algorithm}"
        head = S3.head_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED")
        assert put[name] == head[name] and head["ChecksumType"] == "FULL_OBJECT", head
        assert name not in S3.head_object(Bucket=bucket, Key=algorithm)
        assert body(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED") == data
        ranged = S3.get_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED", Range="bytes=0-9")
        assert name not in ranged
    S3.put_object(Bucket=bucket, Key="said", Body=data, ChecksumSHA1=sha1)
    wrong = base64.b64encode(hashlib.sha1(b"other").digest()).decode()
    with refused("BadDigest", 400):
        S3.put_object(Bucket=bucket, Key="wrong", Body=data, ChecksumSHA1=wrong)
    with refused("InvalidRequest", 400):
        S3.put_object(Bucket=bucket, Key="wrong", Body=data, ChecksumSHA1="bm90IGEgc2hhMQ==")
    with refused("BadDigest", 400):
        md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
        S3.put_object(Bucket=bucket, Key="wrong", Body=data, ContentMD5=md5)
    with refused("InvalidDigest", 400):
        S3.put_object(Bucket=bucket, Key="wrong", Body=data, ContentMD5="YWJj")
    # What isn't known can't be verified, and what is said twice isn't chosen from.
    crc = base64.b64encode(zlib.crc32(b"data").to_bytes(4, "big")).decode()
    for headers in [{"x-amz-checksum-sha512": "AA=="}, {"x-amz-checksum-xxhash64": "AA=="}, {"x-amz-checksum-foo": "1"},
                    {"x-amz-checksum-crc32": crc, "x-amz-trailer": "x-amz-checksum-crc32c"}]:
        for path in [f"/{bucket}/wrong", f"/{bucket}?cors"]:
            status, _, text = raw("PUT", path, b"data", signed_headers(path, {"x-amz-content-sha256": "UNSIGNED-PAYLOAD", **headers}))
            assert status == 400 and b"InvalidRequest" in text, (headers, text)
    for header, code in [({"x-amz-object-lock-event-hold": "ON"}, b"NotImplemented"),
                         ({"x-amz-object-annotation-directive": "COPY"}, b"NotImplemented")]:
        path = f"/{bucket}/wrong"
        status, _, text = raw("PUT", path, b"data", signed_headers(path, {"x-amz-content-sha256": "UNSIGNED-PAYLOAD", **header}))
        assert status == 501 and code in text, text
    status, _, text = raw("GET", f"/{bucket}/said", headers={
        **signed_headers(f"/{bucket}/said", {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}), "x-amz-content-sha256": "rubbish"})
    assert status == 400 and b"x-amz-content-sha256 must be" in text, text
    with refused("404", 404):
        S3.head_object(Bucket=bucket, Key="wrong")
    quiet = client(request_checksum_calculation="when_required")
    quiet.put_object(Bucket=bucket, Key="none", Body=data)
    head = S3.head_object(Bucket=bucket, Key="none", ChecksumMode="ENABLED")
    assert "ChecksumCRC64NVME" in head, head
    found = S3.get_object_attributes(
        Bucket=bucket, Key="said",
        ObjectAttributes=["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"])
    assert found["Checksum"]["ChecksumSHA1"] == sha1 and found["ObjectSize"] == len(data), found
    assert found["ETag"] == hashlib.md5(data).hexdigest() and found["StorageClass"] == "STANDARD"


def multipart(bucket):
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB + 3), b"the end"]
    named = {"Bucket": bucket, "Key": "k"}

    def upload(pieces, **options):
        each = {"ChecksumAlgorithm": options["ChecksumAlgorithm"]} if options.get("ChecksumAlgorithm") else {}
        id = S3.create_multipart_upload(**named, **options)["UploadId"]
        done = []
        for number, piece in pieces:
            part = S3.upload_part(**named, UploadId=id, PartNumber=number, Body=piece, **each)
            sums = {name: value for name, value in part.items() if name.startswith("Checksum")}
            if not options.get("ChecksumAlgorithm"):
                sums = {}
            done.append({"PartNumber": number, "ETag": part["ETag"], **sums})
        return id, done

    id, done = upload(enumerate(parts, 1), Metadata={"m": "1"}, ChecksumAlgorithm="SHA256")
    listed = S3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [one["UploadId"] for one in listed] == [id]
    shown = S3.list_parts(**named, UploadId=id, MaxParts=2)
    assert shown["IsTruncated"] and shown["NextPartNumberMarker"] == 2, shown
    more = S3.list_parts(**named, UploadId=id, PartNumberMarker=2)
    assert [part["Size"] for part in more["Parts"]] == [7] and not more["IsTruncated"]
    for wrong, code in [
        (done[::-1], "InvalidPartOrder"),
        (done[:1] + [{"PartNumber": 9, "ETag": done[0]["ETag"]}], "InvalidPart"),
        ([{"PartNumber": 1, "ETag": '"' + "0" * 32 + '"'}], "InvalidPart"),
        ([], "MalformedXML"),
    ]:
        with refused(code, 400):
            S3.complete_multipart_upload(**named, UploadId=id, MultipartUpload={"Parts": wrong})
    with refused("404", 404):
        S3.head_object(**named)
    whole = b"".join(parts)
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    etag = f'"{hashlib.md5(digests).hexdigest()}-3"'
    for _ in range(2):  # Asked again, it answers the same.
        made = S3.complete_multipart_upload(**named, UploadId=id, MultipartUpload={"Parts": done})
        assert made["ETag"] == etag, made
    sums = b"".join(hashlib.sha256(part).digest() for part in parts)
    assert made["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(sums).digest()).decode() + "-3"
    assert made["ChecksumType"] == "COMPOSITE"
    assert body(**named) == whole
    assert S3.head_object(**named)["Metadata"] == {"m": "1"}
    part = S3.get_object(**named, PartNumber=2)
    assert part["Body"].read() == parts[1] and part["PartsCount"] == 3
    assert part["ContentRange"] == f"bytes {5 * MIB}-{10 * MIB + 2}/{len(whole)}"
    with refused("InvalidPartNumber", 416):
        S3.get_object(**named, PartNumber=4)
    border = 5 * MIB
    got = S3.get_object(**named, Range=f"bytes={border - 5}-{border + 4}")["Body"].read()
    assert got == whole[border - 5:border + 5]
    found = S3.get_object_attributes(**named, ObjectAttributes=["ObjectParts"], MaxParts=2)["ObjectParts"]
    assert found["TotalPartsCount"] == 3 and found["IsTruncated"] and len(found["Parts"]) == 2, found
    with refused("NoSuchUpload", 404):
        S3.list_parts(**named, UploadId=id)
    # Numbers may have gaps, parts may be put again, and what isn't named is dropped.
    id, done = upload([(3, parts[0]), (7, b"old"), (7, b"new"), (9, b"unused")])
    S3.complete_multipart_upload(**named, UploadId=id, MultipartUpload={"Parts": [done[0], done[2]]})
    assert body(**named) == parts[0] + b"new"
    assert S3.head_object(**named, ChecksumMode="ENABLED")["ChecksumType"] == "FULL_OBJECT"
    id, done = upload([(1, b"small"), (2, b"last")])
    with refused("EntityTooSmall", 400) as error:
        S3.complete_multipart_upload(**named, UploadId=id, MultipartUpload={"Parts": done})
    part = {name: error.response["Error"][name] for name in ["PartNumber", "ETag", "MinSizeAllowed"]}
    assert part == {"PartNumber": "1", "ETag": done[0]["ETag"].strip('"'), "MinSizeAllowed": str(5 * MIB)}, part
    with refused("PreconditionFailed", 412):
        S3.complete_multipart_upload(**named, UploadId=id, MultipartUpload={"Parts": done}, IfNoneMatch="*")
    S3.abort_multipart_upload(**named, UploadId=id)
    with refused("NoSuchUpload", 404):
        S3.abort_multipart_upload(**named, UploadId=id)
    with refused("NoSuchUpload", 404):
        S3.upload_part(**named, UploadId=id, PartNumber=1, Body=b"x")
    with refused("InvalidArgument", 400):
        S3.upload_part(**named, UploadId=id, PartNumber=10001, Body=b"x")
    # Parts that are copied.
    S3.put_object(Bucket=bucket, Key="src", Body=whole)
    id = S3.create_multipart_upload(**named)["UploadId"]
    done = []
    for number, wanted in enumerate([f"bytes=0-{6 * MIB - 1}", f"bytes={6 * MIB}-{len(whole) - 1}"], 1):
        copied = S3.upload_part_copy(**named, UploadId=id, PartNumber=number, CopySourceRange=wanted,
                                     CopySource={"Bucket": bucket, "Key": "src"})
        done.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
    with refused("InvalidArgument", 400):
        S3.upload_part_copy(**named, UploadId=id, PartNumber=1, CopySourceRange=f"bytes=0-{len(whole)}",
                            CopySource={"Bucket": bucket, "Key": "src"})
    S3.delete_object(Bucket=bucket, Key="src")
    S3.complete_multipart_upload(**named, UploadId=id, MultipartUpload={"Parts": done})
    assert body(**named) == whole
    # A full-object CRC is that of the bytes.
    id, done = upload(enumerate(parts, 1), ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    made = S3.complete_multipart_upload(**named, UploadId=id, MultipartUpload={"Parts": done})
    import zlib
    assert made["ChecksumCRC32"] == base64.b64encode(zlib.crc32(whole).to_bytes(4, "big")).decode(), made
    with refused("InvalidRequest", 400):
        S3.create_multipart_upload(**named, ChecksumAlgorithm="SHA1", ChecksumType="FULL_OBJECT")
    for key in ["u/1", "u/2", "v"]:
        for _ in range(2):
            S3.create_multipart_upload(Bucket=bucket, Key=key)
    page = S3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["u/"] and len(page["Uploads"]) == 2
    seen, markers = [], {}
    while True:
        page = S3.list_multipart_uploads(Bucket=bucket, MaxUploads=1, **markers)
        seen += [(one["Key"], one["UploadId"]) for one in page["Uploads"]]
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert len(set(seen)) == 6 and [key for key, _ in seen] == ["u/1", "u/1", "u/2", "u/2", "v", "v"], seen


def transfers(bucket):
    """boto3's transfer manager: many parts at once, from files and streams."""
    data = os.urandom(37 * MIB + 11)
    config = boto3.s3.transfer.TransferConfig(multipart_chunksize=5 * MIB, max_concurrency=6)
    S3.upload_fileobj(io.BytesIO(data), bucket, "big", Config=config)
    out = io.BytesIO()
    S3.download_fileobj(bucket, "big", out, Config=config)
    assert out.getvalue() == data
    S3.copy({"Bucket": bucket, "Key": "big"}, bucket, "copy", Config=config)
    assert body(Bucket=bucket, Key="copy") == data
    signed = client(request_checksum_calculation="when_required", s3={"payload_signing_enabled": True})
    signed.put_object(Bucket=bucket, Key="signed", Body=data[:MIB])
    assert body(Bucket=bucket, Key="signed") == data[:MIB]


def versions(bucket):
    S3.put_object(Bucket=bucket, Key="k", Body=b"before")
    S3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert S3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    named = {"Bucket": bucket, "Key": "k"}
    assert S3.head_object(**named)["VersionId"] == "null"
    ids = [S3.put_object(**named, Body=f"{n}".encode())["VersionId"] for n in range(3)]
    assert len(set(ids)) == 3
    assert [body(**named, VersionId=id) for id in ids] == [b"0", b"1", b"2"]
    assert body(**named, VersionId="null") == b"before" and body(**named) == b"2"
    gone = S3.delete_object(**named)
    assert gone["DeleteMarker"] is True
    with refused("NoSuchKey", 404) as hidden:
        S3.get_object(**named)
    assert hidden.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    with refused("MethodNotAllowed", 405) as marked:
        S3.get_object(**named, VersionId=gone["VersionId"])
    assert marked.response["ResponseMetadata"]["HTTPHeaders"]["last-modified"].endswith(" GMT")
    # What a marker can't have isn't to be had of it, whether it is named or the current version.
    tags = {"Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}}
    for of in [{}, {"VersionId": gone["VersionId"]}]:
        for ask, more in [(S3.put_object_tagging, tags), (S3.get_object_tagging, {}), (S3.delete_object_tagging, {})]:
            with refused("MethodNotAllowed", 405):
                ask(**named, **of, **more)
        with refused(*(("MethodNotAllowed", 405) if of else ("NoSuchKey", 404))):
            S3.get_object_acl(**named, **of)
    with refused("MalformedXML", 400):
        S3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "enabled"})
    assert "Contents" not in S3.list_objects_v2(Bucket=bucket)
    with refused("BucketNotEmpty", 409):
        S3.delete_bucket(Bucket=bucket)
    listed = S3.list_object_versions(Bucket=bucket)
    assert [one["VersionId"] for one in listed["Versions"]] == ids[::-1] + ["null"]
    assert [one["IsLatest"] for one in listed["DeleteMarkers"]] == [True]
    seen, markers = [], {}
    while True:
        page = S3.list_object_versions(Bucket=bucket, MaxKeys=1, **markers)
        seen += [one["VersionId"] for one in page.get("Versions", []) + page.get("DeleteMarkers", [])]
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
    assert seen == [gone["VersionId"]] + ids[::-1] + ["null"], seen
    back = S3.delete_object(**named, VersionId=gone["VersionId"])
    assert back["DeleteMarker"] is True and body(**named) == b"2"
    S3.delete_object(**named, VersionId=ids[2])
    assert body(**named) == b"1"
    with refused("NoSuchVersion", 404):
        S3.get_object(**named, VersionId=ids[2])
    with refused("InvalidArgument", 400):
        S3.get_object(**named, VersionId="no id")
    S3.copy_object(**named, CopySource={**named, "VersionId": ids[0]})
    assert body(**named) == b"0"
    S3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert "VersionId" not in S3.put_object(**named, Body=b"null again")
    assert body(**named, VersionId="null") == b"null again"
    marker = S3.delete_object(**named)
    assert marker["VersionId"] == "null" and marker["DeleteMarker"] is True
    with refused("NoSuchKey", 404):
        S3.get_object(**named)
    assert body(**named, VersionId=ids[1]) == b"1"
    with refused("IllegalVersioningConfigurationException", 400):
        S3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={})


def deleting(bucket):
    for n in range(5):
        S3.put_object(Bucket=bucket, Key=f"k{n}", Body=b"x")
    wanted = [{"Key": f"k{n}"} for n in range(4)] + [{"Key": "none"}]
    done = S3.delete_objects(Bucket=bucket, Delete={"Objects": wanted})
    assert len(done["Deleted"]) == 5 and "Errors" not in done, done
    quiet = S3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k4"}], "Quiet": True})
    assert "Deleted" not in quiet
    assert "Contents" not in S3.list_objects_v2(Bucket=bucket)
    tag = S3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    with refused("PreconditionFailed", 412):
        S3.delete_object(Bucket=bucket, Key="k", IfMatch='"other"')
    S3.delete_object(Bucket=bucket, Key="k", IfMatch=tag)
    with refused("MalformedXML", 400):
        S3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": f"{n}"} for n in range(1001)]})


def tagging(bucket):
    named = {"Bucket": bucket, "Key": "k"}
    S3.put_object(**named, Body=b"x", Tagging="a=1&b=two%20words")
    assert S3.get_object(**named)["TagCount"] == 2
    tags = S3.get_object_tagging(**named)["TagSet"]
    assert tags == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "two words"}], tags
    S3.put_object_tagging(**named, Tagging={"TagSet": [{"Key": "c", "Value": ""}]})
    assert S3.get_object_tagging(**named)["TagSet"] == [{"Key": "c", "Value": ""}]
    S3.delete_object_tagging(**named)
    assert S3.get_object_tagging(**named)["TagSet"] == []
    for wrong in [
        [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}],
        [{"Key": "k" * 129, "Value": ""}], [{"Key": "k", "Value": "v" * 257}],
        [{"Key": "aws:k", "Value": ""}], [{"Key": "k", "Value": "!"}],
    ]:
        with refused("InvalidTag", 400):
            S3.put_object_tagging(**named, Tagging={"TagSet": wrong})
    with refused("BadRequest", 400):
        S3.put_object_tagging(**named, Tagging={"TagSet": [{"Key": f"{n}", "Value": ""} for n in range(11)]})


def presigned(bucket):
    for version in ["s3v4", "s3"]:
        signer = client(signature_version=version, s3={"addressing_style": "path"})
        key = f"p {version}/ü"
        named = {"Bucket": bucket, "Key": key}
        put = signer.generate_presigned_url("put_object", Params=named, ExpiresIn=60)
        status, _, text = raw("PUT", put, b"presigned", {"Content-Type": ""})
        assert status == 200, text
        get = signer.generate_presigned_url("get_object", Params=named, ExpiresIn=60)
        status, _, text = raw("GET", get)
        assert (status, text) == (200, b"presigned"), text
        status, _, text = raw("GET", get.replace("p%20", "q%20"))
        assert status == 403 and b"SignatureDoesNotMatch" in text, text
        late = signer.generate_presigned_url("get_object", Params=named, ExpiresIn=1)
        time.sleep(2.1)
        status, _, text = raw("GET", late)
        assert status == 403 and b"AccessDenied" in text and b"expired" in text, text
    # Version 2 has the headers that were signed in the query; what a browser sends beside them doesn't count.
    told = {"Bucket": bucket, "Key": "told", "Metadata": {"m": "v"}, "ContentType": "text/plain"}
    url = S3.generate_presigned_url("put_object", Params=told)
    assert "Signature=" in url and "X-Amz-Signature" not in url, url
    assert raw("PUT", url, b"x", {"Content-Type": "application/x-other"})[0] == 200
    found = S3.head_object(Bucket=bucket, Key="told")
    assert (found["Metadata"], found["ContentType"]) == ({"m": "v"}, "text/plain"), found
    for other in [url.replace("meta-m=v", "meta-m=w"), url.replace("x-amz-meta-m=v&", "")]:
        assert other != url and raw("PUT", other, b"x", {"Content-Type": "text/plain"})[0] == 403
    # What was not signed doesn't count: neither headers nor what version 2 doesn't cover.
    signer = client(signature_version="s3v4")
    url = signer.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    for header in ["x-amz-copy-source", "x-amz-tagging", "x-amz-meta-a"]:
        status, _, text = raw("PUT", url, b"x", {header: f"{bucket}/k", "Content-Type": ""})
        assert status == 403 and b"not signed" in text, (header, status, text)
    options = {"Metadata": {"a": "b"}, "StorageClass": "STANDARD_IA"}
    url = signer.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k", **options})
    signed = {"x-amz-meta-a": "b", "x-amz-storage-class": "STANDARD_IA"}
    status, _, text = raw("PUT", url, b"x", {**signed, "Content-Type": ""})
    assert status == 200, text
    head = S3.head_object(Bucket=bucket, Key="k")
    assert head["Metadata"] == {"a": "b"} and head["StorageClass"] == "STANDARD_IA", head
    elsewhere = client(signature_version="s3v4", region_name="eu-west-1")
    url = elsewhere.generate_presigned_url("list_buckets")
    status, _, text = raw("GET", url)
    assert status == 400 and b"AuthorizationQueryParametersError" in text, text


def posting(bucket):
    """A browser's form."""
    form = S3.generate_presigned_post(
        bucket, "up/${filename}", Fields={"Content-Type": "text/plain", "success_action_status": "201"},
        Conditions=[{"Content-Type": "text/plain"}, {"success_action_status": "201"},
                    ["content-length-range", 1, 1000]], ExpiresIn=60)

    def post(fields, data):
        boundary = uuid.uuid4().hex
        lines = []
        for name, value in fields.items():
            lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n')
        lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n\r\n')
        whole = "".join(lines).encode() + data + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return raw("POST", f"/{bucket}", whole, headers)

    status, _, text = post(form["fields"], b"from a form")
    assert status == 201 and b"<Key>up/f.txt</Key>" in text, (status, text)
    assert body(Bucket=bucket, Key="up/f.txt") == b"from a form"
    assert S3.head_object(Bucket=bucket, Key="up/f.txt")["ContentType"] == "text/plain"
    status, _, text = post(form["fields"], b"x" * 1001)
    assert status == 400 and b"EntityTooLarge" in text, (status, text)
    tampered = {**form["fields"], "key": "elsewhere/${filename}"}
    status, _, text = post(tampered, b"x")
    assert status == 403, (status, text)
    policy = base64.b64decode(form["fields"]["policy"]).replace(b"1000", b"9999")
    status, _, text = post({**form["fields"], "policy": base64.b64encode(policy).decode()}, b"x")
    assert status == 403 and b"SignatureDoesNotMatch" in text, (status, text)
    # Everything the policy doesn't name is refused, and so is a form that isn't one.
    for fields, wanted, code in [({**form["fields"], "acl": "private"}, 403, b"Extra input fields: acl"),
                                 ({**form["fields"], "x-ignore-this": "1"}, 201, b"<Key>"),
                                 ({"policy": form["fields"]["policy"], "key": "k"}, 400, b"x-amz-algorithm"),
                                 ({"Content-Type": "text/plain"}, 400, b"a field named"),
                                 ({"key": "k" * 30000}, 400, b"MaxPostPreDataLengthExceeded"),
                                 ({"key": "k"}, 403, b"AccessDenied")]:
        status, _, text = post(fields, b"x")
        assert status == wanted and code in text, (list(fields), status, text)
    status, _, text = raw("POST", f"/{bucket}", b"key=k", {"Content-Type": "text/plain"})
    assert status == 412, (status, text)
    # Tags, metadata and where the browser goes then; the file streams, so it may be large.
    tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    named = {"tagging": tags, "x-amz-meta-from": "a form", "success_action_redirect": ENDPOINT + "/then?x=1"}
    form = S3.generate_presigned_post(bucket, "big", Fields=named, ExpiresIn=60,
                                      Conditions=[{name: value} for name, value in named.items()])
    large = os.urandom(70 * MIB)

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    urllib.request.install_opener(urllib.request.build_opener(Stay))
    status, headers, text = post(form["fields"], large)
    urllib.request.install_opener(None)
    tag = hashlib.md5(large).hexdigest()
    assert status == 303, (status, text)
    assert headers["Location"] == f"{ENDPOINT}/then?x=1&bucket={bucket}&key=big&etag=%22{tag}%22", headers["Location"]
    assert body(Bucket=bucket, Key="big") == large
    assert S3.head_object(Bucket=bucket, Key="big")["Metadata"] == {"from": "a form"}
    assert S3.get_object_tagging(Bucket=bucket, Key="big")["TagSet"] == [{"Key": "a", "Value": "1"}]


def strangers(bucket):
    """Nobody gets anything without a key, nor with another's."""
    for method, path in [("GET", "/"), ("GET", f"/{bucket}"), ("PUT", f"/{bucket}/k"), ("DELETE", f"/{bucket}/k"),
                         ("POST", f"/{bucket}/k?uploads")]:
        status, headers, text = raw(method, path, b"x" if method == "PUT" else None)
        assert status == 403 and b"<Code>AccessDenied</Code>" in text, (method, path, status, text)
        assert headers["x-amz-request-id"] and b"<HostId>" in text
    with refused("InvalidAccessKeyId", 403):
        boto3.client("s3", aws_access_key_id="AKIANOBODY", aws_secret_access_key="x").list_buckets()
    with refused("SignatureDoesNotMatch", 403):
        id = os.environ["AWS_ACCESS_KEY_ID"]
        boto3.client("s3", aws_access_key_id=id, aws_secret_access_key="wrong").list_buckets()
    with refused("AuthorizationHeaderMalformed", 400):
        boto3.client("s3", region_name="eu-west-1").list_buckets()
    if os.environ.get("OTHER_KEYS"):
        other = friend()
        assert bucket not in [one["Name"] for one in other.list_buckets()["Buckets"]]
        with refused("AccessDenied", 403):
            other.list_objects_v2(Bucket=bucket)
        with refused("AccessDenied", 403):
            other.put_object(Bucket=bucket, Key="k", Body=b"x")
        with refused("BucketAlreadyExists", 409):
            other.create_bucket(Bucket=bucket)


def acls(bucket):
    """Lists of grants, where a bucket's owner turns them on."""
    everybody = "http://acs.amazonaws.com/groups/global/AllUsers"
    with refused("AccessControlListNotSupported", 400):
        S3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    with refused("AccessControlListNotSupported", 400):
        S3.put_object(Bucket=bucket, Key="k", ACL="public-read")
    # What the owner has anyway may be said, in either form.
    me = S3.list_buckets()["Owner"]["ID"]
    S3.put_object(Bucket=bucket, Key="k", GrantFullControl=f'id="{me}"')
    with refused("AccessControlListNotSupported", 400):
        S3.put_object(Bucket=bucket, Key="k", GrantRead=f'id="{me}"')
    with refused("InvalidBucketAclWithObjectOwnership", 400):
        S3.create_bucket(Bucket=bucket + "-x", ACL="public-read")
    with refused("InvalidBucketAclWithBlockPublicAccessError", 400):
        S3.create_bucket(Bucket=bucket + "-x", ACL="public-read", ObjectOwnership="ObjectWriter")
    owned = {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
    S3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=owned)
    assert S3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"] == owned
    with refused("AccessDenied", 403):  # the public access block is on
        S3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    S3.delete_public_access_block(Bucket=bucket)
    S3.put_object(Bucket=bucket, Key="open", Body=b"open", ACL="public-read")
    S3.put_object(Bucket=bucket, Key="closed", Body=b"closed")
    path = f"/{bucket}"
    assert raw("GET", path + "/open")[2] == b"open"
    assert raw("GET", path + "/closed")[0] == 403
    assert raw("GET", path + "/none")[0] == 403
    assert raw("GET", path)[0] == 403
    S3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert raw("GET", path)[0] == 200
    assert raw("GET", path + "/none")[0] == 404
    assert raw("PUT", path + "/new", data=b"x")[0] == 403
    # Another account, by name.
    other = friend()
    me = S3.list_buckets()["Owner"]["ID"]
    theirs = other.list_buckets()["Owner"]["ID"]
    S3.put_bucket_acl(Bucket=bucket, GrantWrite=f'id="{theirs}"', GrantFullControl=f'id="{me}"')
    other.put_object(Bucket=bucket, Key="theirs", Body=b"theirs")
    with refused("AccessDenied", 403):
        other.list_objects_v2(Bucket=bucket)
    with refused("AccessDenied", 403):
        S3.get_object(Bucket=bucket, Key="theirs")  # not the bucket's owner's
    assert S3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][-1]["Owner"]["ID"] == theirs
    other.put_object_acl(Bucket=bucket, Key="theirs", ACL="bucket-owner-read")
    assert body(Bucket=bucket, Key="theirs") == b"theirs"
    acl = other.get_object_acl(Bucket=bucket, Key="theirs")
    assert acl["Owner"]["ID"] == theirs
    assert [(one["Grantee"]["ID"], one["Permission"]) for one in acl["Grants"]] == \
        [(theirs, "FULL_CONTROL"), (me, "READ")], acl
    with refused("AccessDenied", 403):
        S3.get_object_acl(Bucket=bucket, Key="theirs")
    S3.delete_object(Bucket=bucket, Key="theirs")  # but it may always be deleted
    # Lists as XML, and what is none.
    grants = [{"Grantee": {"Type": "CanonicalUser", "ID": me}, "Permission": "FULL_CONTROL"},
              {"Grantee": {"Type": "Group", "URI": everybody}, "Permission": "READ"}]
    S3.put_object_acl(Bucket=bucket, Key="closed", AccessControlPolicy={"Owner": {"ID": me}, "Grants": grants})
    assert raw("GET", path + "/closed")[2] == b"closed"
    for grantee, code in [({"Type": "CanonicalUser", "ID": "nobody"}, "InvalidArgument"),
                          ({"Type": "Group", "URI": "http://example.org/"}, "InvalidArgument"),
                          ({"Type": "AmazonCustomerByEmail", "EmailAddress": "a@b.c"}, "MethodNotAllowed")]:
        wrong = [{"Grantee": grantee, "Permission": "READ"}]
        with refused(code):
            S3.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": {"ID": me}, "Grants": wrong})
    with refused("AccessDenied", 403):  # an owner isn't changed like this
        S3.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": {"ID": theirs}, "Grants": grants})
    # What the public access block makes of them.
    block = {"BlockPublicAcls": False, "IgnorePublicAcls": True, "BlockPublicPolicy": False,
             "RestrictPublicBuckets": False}
    S3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    assert raw("GET", path + "/open")[0] == 403
    S3.delete_public_access_block(Bucket=bucket)
    assert raw("GET", path + "/open")[0] == 200
    # An upload in parts and a copy have lists of their own; EC2 may be let in to an image.
    upload = S3.create_multipart_upload(Bucket=bucket, Key="parts", ACL="public-read")["UploadId"]
    tag = S3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"p")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    S3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload=parts)
    assert raw("GET", path + "/parts")[2] == b"p"
    S3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/parts", ACL="aws-exec-read")
    assert raw("GET", path + "/copy")[0] == 403
    reader = S3.get_object_acl(Bucket=bucket, Key="copy")["Grants"][1]
    assert reader["Grantee"]["DisplayName"] == "za-team" and reader["Permission"] == "READ", reader
    # Off again: only for a bucket whose own list is plain; then what is in it counts no more.
    enforced = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    with refused("InvalidBucketAclWithObjectOwnership", 400):
        S3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=enforced)
    S3.put_bucket_acl(Bucket=bucket, ACL="private")
    S3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=enforced)
    assert raw("GET", path + "/open")[0] == 403
    assert len(S3.get_object_acl(Bucket=bucket, Key="open")["Grants"]) == 1
    S3.delete_bucket_ownership_controls(Bucket=bucket)
    with refused("OwnershipControlsNotFoundError", 404):
        S3.get_bucket_ownership_controls(Bucket=bucket)
    assert raw("GET", path + "/open")[0] == 200


def what_others_could_try(bucket):
    """Ways in that a reviewer found, each once."""
    other, path = friend(), f"/{bucket}"
    me, theirs = S3.list_buckets()["Owner"]["ID"], other.list_buckets()["Owner"]["ID"]
    S3.put_object(Bucket=bucket, Key="secret", Body=b"secret")
    # A presigned URL is worth what was signed, however its parts are spelt.
    url = S3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "new"})
    source = {"x-amz-copy-source": f"{bucket}/secret"}
    assert raw("PUT", url, b"", source)[0] == 403
    assert raw("PUT", url.replace("X-Amz-SignedHeaders", "%58-Amz-SignedHeaders"), b"", source)[0] == 403
    bogus = "AWS4-HMAC-SHA256 Credential=x/20261129/us-east-1/s3/aws4_request, " \
            "SignedHeaders=host;x-amz-copy-source;x-amz-date, Signature=0"
    assert raw("PUT", url, b"", {**source, "Authorization": bogus, "x-amz-date": "20261129T000000Z"})[0] == 400
    old = client(signature_version="s3")
    url = old.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "secret"}, ExpiresIn=60)
    assert raw("GET", url)[0] == 200
    for more in ["&acl&acl", "&%72etention", "&legal%2Dhold", "&attributes"]:
        assert raw("GET", url + more)[0] == 403, more
    # Who may only list doesn't set the list of what may come.
    S3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]})
    S3.delete_public_access_block(Bucket=bucket)
    S3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert raw("PUT", path + "/future?acl", b"", {"x-amz-acl": "public-read"})[0] == 403
    # Whom an ACL lets write goes on with his own uploads only, and his objects' versions aren't his to destroy.
    S3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    S3.put_bucket_acl(Bucket=bucket, GrantWrite=f'id="{theirs}"', GrantFullControl=f'id="{me}"')
    mine = {"Bucket": bucket, "Key": "m", "UploadId": S3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]}
    for act in [lambda: other.upload_part(**mine, PartNumber=1, Body=b"x"), lambda: other.list_parts(**mine),
                lambda: other.abort_multipart_upload(**mine),
                lambda: other.complete_multipart_upload(**mine, MultipartUpload={"Parts": [
                    {"PartNumber": 1, "ETag": "x"}]})]:
        with refused("AccessDenied", 403):
            act()
    his = {"Bucket": bucket, "Key": "h", "UploadId": other.create_multipart_upload(Bucket=bucket, Key="h")["UploadId"]}
    tag = other.upload_part(**his, PartNumber=1, Body=b"x")["ETag"]
    found = {one["Key"]: one["Initiator"]["ID"] for one in S3.list_multipart_uploads(Bucket=bucket)["Uploads"]}
    assert found == {"m": me, "h": theirs}, found
    other.complete_multipart_upload(**his, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]})
    version = S3.list_object_versions(Bucket=bucket, Prefix="h")["Versions"][0]["VersionId"]
    with refused("AccessDenied", 403):
        other.delete_object(Bucket=bucket, Key="h", VersionId=version)
    # A denial counts, also for what comes along with a put.
    deny = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObjectTagging", "s3:PutObjectAcl"],
            "Resource": f"arn:aws:s3:::{bucket}/*"}
    S3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    other.put_object(Bucket=bucket, Key="d", Body=b"x")
    for more in [{"Tagging": "a=1"}, {"ACL": "public-read"}]:
        with refused("AccessDenied", 403):
            other.put_object(Bucket=bucket, Key="d", Body=b"x", **more)
    S3.delete_bucket_policy(Bucket=bucket)
    # Copying takes tags along only for who may read them.
    S3.put_object(Bucket=bucket, Key="tagged", Body=b"x", Tagging="a=1", ACL="authenticated-read")
    theirs = bucket + "-theirs"
    other.create_bucket(Bucket=theirs)
    with refused("AccessDenied", 403):
        other.copy_object(Bucket=theirs, Key="k", CopySource=f"{bucket}/tagged")
    other.copy_object(Bucket=theirs, Key="k", CopySource=f"{bucket}/tagged", TaggingDirective="REPLACE")
    other.delete_object(Bucket=theirs, Key="k")
    other.delete_bucket(Bucket=theirs)
    # Forms: none for s3s, and not much around the file.
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert raw("POST", path + "?x", b"--b\r\n", kind)[0] == 405
    status, _, text = raw("POST", path, b"x" * MIB, kind)
    assert status == 400 and b"MalformedPOSTRequest" in text, (status, text)
    # Below /services/Walrus, a signature is of its own path.
    below = boto3.client("s3", endpoint_url=ENDPOINT + "/services/Walrus",
                         config=botocore.config.Config(signature_version="s3v4"))
    url = below.generate_presigned_url("delete_object", Params={"Bucket": bucket, "Key": "secret/"})
    assert raw("DELETE", url.replace("/secret/?", "/secret?"))[0] == 403
    assert body(Bucket=bucket, Key="secret") == b"secret"
    below.put_object(Bucket=bucket, Key="a~b*(c)!", Body=b"x")
    assert body(Bucket=bucket, Key="a~b*(c)!") == b"x"


def encryption(bucket):
    """Bytes that are ciphertext on the disk, by the cloud's key and by the client's."""
    with refused("ServerSideEncryptionConfigurationNotFoundError", 404):
        S3.get_bucket_encryption(Bucket=bucket)
    large = os.urandom(7 * MIB)
    put = S3.put_object(Bucket=bucket, Key="s3", Body=large, ServerSideEncryption="AES256")
    assert put["ServerSideEncryption"] == "AES256"
    assert put["ETag"].strip('"') == hashlib.md5(large).hexdigest()
    assert S3.head_object(Bucket=bucket, Key="s3")["ServerSideEncryption"] == "AES256"
    got = S3.get_object(Bucket=bucket, Key="s3", Range="bytes=300000-5300000")
    assert got["ServerSideEncryption"] == "AES256" and got["Body"].read() == large[300000:5300001]
    for wanted, code in [("aws:kms", "NotImplemented"), ("ROT13", "InvalidArgument")]:
        with refused(code):
            S3.put_object(Bucket=bucket, Key="no", Body=b"", ServerSideEncryption=wanted)
    # A client's key: nothing is read without it.
    own = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": os.urandom(32)}
    other = {**own, "SSECustomerKey": os.urandom(32)}
    put = S3.put_object(Bucket=bucket, Key="c", Body=large, **own)
    assert put["SSECustomerAlgorithm"] == "AES256" and "ServerSideEncryption" not in put
    assert put["SSECustomerKeyMD5"] == base64.b64encode(hashlib.md5(own["SSECustomerKey"]).digest()).decode()
    assert put["ETag"].strip('"') != hashlib.md5(large).hexdigest()
    assert body(Bucket=bucket, Key="c", **own) == large
    assert S3.head_object(Bucket=bucket, Key="c", **own)["ContentLength"] == len(large)
    with refused("InvalidRequest", 400):
        S3.get_object(Bucket=bucket, Key="c")
    with refused("AccessDenied", 403):
        S3.get_object(Bucket=bucket, Key="c", **other)
    with refused("400"):
        S3.head_object(Bucket=bucket, Key="c")
    with refused("InvalidRequest", 400):
        S3.get_object(Bucket=bucket, Key="s3", **own)
    with refused("InvalidArgument", 400):
        key = base64.b64encode(own["SSECustomerKey"]).decode()
        S3.put_object(Bucket=bucket, Key="no", Body=b"", SSECustomerAlgorithm="AES256", SSECustomerKey=key,
                      SSECustomerKeyMD5="AAAA")
    with refused("InvalidArgument", 400):
        S3.put_object(Bucket=bucket, Key="no", Body=b"", **own, ServerSideEncryption="AES256")
    # Copies change the key, or nothing at all.
    source = {f"CopySource{name}": value for name, value in own.items()}
    S3.copy_object(Bucket=bucket, Key="plain", CopySource=f"{bucket}/c", **source)
    assert body(Bucket=bucket, Key="plain") == large
    S3.copy_object(Bucket=bucket, Key="again", CopySource=f"{bucket}/c", **source, **other)
    assert body(Bucket=bucket, Key="again", **other) == large
    copy = S3.copy_object(Bucket=bucket, Key="by-s3", CopySource=f"{bucket}/plain", ServerSideEncryption="AES256")
    assert copy["ServerSideEncryption"] == "AES256" and body(Bucket=bucket, Key="by-s3") == large
    S3.copy_object(Bucket=bucket, Key="plain", CopySource=f"{bucket}/plain", ServerSideEncryption="AES256")
    assert S3.head_object(Bucket=bucket, Key="plain")["ServerSideEncryption"] == "AES256"
    with refused("InvalidRequest", 400):
        S3.copy_object(Bucket=bucket, Key="no", CopySource=f"{bucket}/c")
    # In parts, each with the key.
    upload = {"Bucket": bucket, "Key": "parts",
              "UploadId": S3.create_multipart_upload(Bucket=bucket, Key="parts", **own)["UploadId"]}
    with refused("InvalidRequest", 400):
        S3.upload_part(**upload, PartNumber=1, Body=b"x")
    with refused("InvalidRequest", 400):
        S3.upload_part(**upload, PartNumber=1, Body=b"x", **other)
    tags = [S3.upload_part(**upload, PartNumber=1, Body=large, **own)["ETag"],
            S3.upload_part_copy(**upload, PartNumber=2, CopySource=f"{bucket}/by-s3",
                                **own)["CopyPartResult"]["ETag"],
            S3.upload_part_copy(**upload, PartNumber=3, CopySource=f"{bucket}/c", CopySourceRange="bytes=0-9",
                                **own, **source)["CopyPartResult"]["ETag"]]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    S3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert body(Bucket=bucket, Key="parts", **own) == large + large + large[:10]
    assert body(Bucket=bucket, Key="parts", **own, Range=f"bytes={len(large) - 3}-{len(large) + 2}") == \
        large[-3:] + large[:3]
    # What a bucket does by itself.
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    S3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    found = S3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert found == [{**rule, "BucketKeyEnabled": False}], found
    assert S3.put_object(Bucket=bucket, Key="k", Body=b"x")["ServerSideEncryption"] == "AES256"
    upload = S3.create_multipart_upload(Bucket=bucket, Key="m")
    assert upload["ServerSideEncryption"] == "AES256"
    tag = S3.upload_part(Bucket=bucket, Key="m", UploadId=upload["UploadId"], PartNumber=1, Body=b"x")["ETag"]
    done = S3.complete_multipart_upload(Bucket=bucket, Key="m", UploadId=upload["UploadId"],
                                        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]})
    assert done["ServerSideEncryption"] == "AES256"
    S3.delete_bucket_encryption(Bucket=bucket)
    assert "ServerSideEncryption" not in S3.put_object(Bucket=bucket, Key="k", Body=b"x")


def locks(_):
    bucket = f"locks-{uuid.uuid4().hex[:8]}"
    S3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    named = {"Bucket": bucket, "Key": "k"}
    assert S3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    with refused("InvalidBucketState", 409):
        S3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    hour = now + datetime.timedelta(hours=1)
    id = S3.put_object(**named, Body=b"x", ObjectLockMode="GOVERNANCE",
                       ObjectLockRetainUntilDate=hour)["VersionId"]
    head = S3.head_object(**named)
    assert head["ObjectLockMode"] == "GOVERNANCE" and head["ObjectLockRetainUntilDate"] == hour, head
    assert S3.get_object_retention(**named)["Retention"] == {"Mode": "GOVERNANCE", "RetainUntilDate": hour}
    with refused("AccessDenied", 403):
        S3.delete_object(**named, VersionId=id)
    failed = S3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k", "VersionId": id}]})
    assert failed["Errors"][0]["Code"] == "AccessDenied", failed
    with refused("AccessDenied", 403):
        S3.put_object_retention(**named, Retention={})
    # A marker may hide it, and nothing more.
    marker = S3.delete_object(**named)["VersionId"]
    S3.delete_object(**named, VersionId=marker)
    with refused("NoSuchObjectLockConfiguration", 404):
        S3.get_object_legal_hold(**named)
    assert "ObjectLockLegalHoldStatus" not in S3.head_object(**named)
    S3.put_object_legal_hold(**named, LegalHold={"Status": "ON"})
    assert S3.get_object_legal_hold(**named)["LegalHold"]["Status"] == "ON"
    with refused("AccessDenied", 403):
        S3.delete_object(**named, VersionId=id, BypassGovernanceRetention=True)
    S3.put_object_legal_hold(**named, LegalHold={"Status": "OFF"})
    assert S3.head_object(**named)["ObjectLockLegalHoldStatus"] == "OFF"
    S3.delete_object(**named, VersionId=id, BypassGovernanceRetention=True)
    with refused("InvalidArgument", 400):
        S3.put_object(**named, ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=now)
    with refused("InvalidArgument", 400):
        S3.put_object(**named, ObjectLockMode="GOVERNANCE")
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    S3.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule})
    assert S3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]["Rule"] == rule
    id = S3.put_object(**named, Body=b"y")["VersionId"]
    with refused("AccessDenied", 403):
        S3.delete_object(**named, VersionId=id)
    S3.delete_object(**named, VersionId=id, BypassGovernanceRetention=True)
    # Nobody may replace it, so it must be what was meant.
    url = V4.generate_presigned_url("put_object", Params=named)
    status, told, answer = raw("PUT", url, b"z")
    assert status == 400 and b"Content-MD5 OR x-amz-checksum-" in answer, answer
    digest = base64.b64encode(hashlib.md5(b"z").digest()).decode()
    status, told, answer = raw("PUT", url, b"z", {"Content-MD5": digest})
    assert status == 200, answer
    S3.delete_object(**named, VersionId=told["x-amz-version-id"], BypassGovernanceRetention=True)
    S3.delete_bucket(Bucket=bucket)
    with refused("InvalidRequest", 400):
        S3.put_object(Bucket=_, Key="k", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=hour)
    with refused("InvalidBucketState", 409):
        S3.put_object_lock_configuration(
            Bucket=_, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})


def origins(bucket):
    """Pages of other origins, as browsers ask for them."""
    site = "https://app.example.org"
    asks = {"Origin": site, "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type, x-amz-date"}
    status, _, text = raw("OPTIONS", f"/{bucket}/k", headers=asks)
    assert status == 403 and b"CORS is not enabled" in text, text
    rules = [{"AllowedOrigins": ["https://*.example.org"], "AllowedMethods": ["PUT", "GET"],
              "AllowedHeaders": ["*"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 60, "ID": "one"}]
    S3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
    assert S3.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules
    status, headers, text = raw("OPTIONS", f"/{bucket}/k", headers=asks)
    assert status == 200 and headers["Access-Control-Allow-Origin"] == site, text
    assert headers["Access-Control-Allow-Headers"] == "content-type, x-amz-date"
    assert headers["Access-Control-Max-Age"] == "60" and "PUT" in headers["Access-Control-Allow-Methods"]
    status, _, text = raw("OPTIONS", f"/{bucket}/k", headers={**asks, "Origin": "https://evil.org"})
    assert status == 403 and b"not allowed" in text, text
    for headers, why in [({}, b"Origin request header needed"), ({"Origin": site}, b"Request-Method: null"),
                         ({**asks, "Access-Control-Request-Method": "FOO"}, b"Request-Method: FOO")]:
        status, _, text = raw("OPTIONS", f"/{bucket}/k", headers=headers)
        assert status == 400 and why in text, text
    S3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = S3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    status, headers, _ = raw("GET", url, headers={"Origin": site})
    assert status == 200 and headers["Access-Control-Allow-Origin"] == site
    assert headers["Access-Control-Expose-Headers"] == "ETag" and "Origin" in headers["Vary"]
    status, headers, _ = raw("GET", url, headers={"Origin": "https://evil.org"})
    assert status == 200 and "Access-Control-Allow-Origin" not in headers
    with refused("InvalidRequest", 400):
        rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["PATCH"]}
        S3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    fine = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]}
    for wrong, word in [({"ID": "a" * 256}, "ID"), ({"MaxAgeSeconds": -1}, "MaxAgeSeconds"),
                        ({"AllowedHeaders": ["a*b*"]}, "AllowedHeader"), ({"AllowedOrigins": ["*.*"]}, "AllowedOrigin")]:
        with refused("InvalidRequest", 400) as why:
            S3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [{**fine, **wrong}]})
        assert word in why.response["Error"]["Message"], why.response
    S3.delete_bucket_cors(Bucket=bucket)
    with refused("NoSuchCORSConfiguration", 404):
        S3.get_bucket_cors(Bucket=bucket)


def lifecycle(bucket):
    rules = [
        {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "log/"}, "Expiration": {"Days": 3},
         "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}},
        {"ID": "old", "Status": "Enabled", "Filter": {"And": {"Prefix": "", "Tags": [{"Key": "a", "Value": "b"}]}},
         "NoncurrentVersionExpiration": {"NoncurrentDays": 2, "NewerNoncurrentVersions": 3}},
    ]
    S3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    found = S3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert found == rules, found
    put = S3.put_object(Bucket=bucket, Key="log/1", Body=b"x")
    assert 'rule-id="logs"' in put["Expiration"] and "00:00:00 GMT" in put["Expiration"], put
    assert S3.head_object(Bucket=bucket, Key="log/1")["Expiration"] == put["Expiration"]
    copied = S3.copy_object(Bucket=bucket, Key="log/copy", CopySource=f"{bucket}/log/1")
    assert copied["Expiration"] == put["Expiration"], copied
    assert copied["CopyObjectResult"]["LastModified"].microsecond == 0, copied
    assert "Expiration" not in S3.put_object(Bucket=bucket, Key="other", Body=b"x")
    named = {"Bucket": bucket, "Key": "log/2"}
    begun = S3.create_multipart_upload(**named)
    assert begun["AbortRuleId"] == "logs", begun
    left = begun["AbortDate"] - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(hours=23) < left < datetime.timedelta(days=2, seconds=5), left
    parts = S3.list_parts(**named, UploadId=begun["UploadId"])
    assert (parts["AbortDate"], parts["AbortRuleId"]) == (begun["AbortDate"], "logs"), parts
    tag = S3.upload_part(**named, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")["ETag"]
    made = S3.complete_multipart_upload(**named, UploadId=begun["UploadId"],
                                        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]})
    assert made["Expiration"] == put["Expiration"], made
    other = S3.create_multipart_upload(Bucket=bucket, Key="other")
    assert "AbortDate" not in other, other
    S3.abort_multipart_upload(Bucket=bucket, Key="other", UploadId=other["UploadId"])
    with refused("NotImplemented", 501):
        S3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [
            {"Status": "Enabled", "Filter": {"Prefix": ""},
             "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}]})
    tag = {"Key": "a", "Value": "b"}
    for both, code in [({"Tags": [tag]}, "MalformedXML"), ({"Prefix": "p", "Tags": [tag, tag]}, "InvalidArgument"),
                       ({"ObjectSizeGreaterThan": 9, "ObjectSizeLessThan": 9}, "InvalidArgument")]:
        with refused(code, 400):
            S3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [
                {"Status": "Enabled", "Filter": {"And": both}, "Expiration": {"Days": 1}}]})
    for first, then, code in [("STANDARD_IA", "STANDARD_IA", "InvalidRequest"),
                              ("ONEZONE_IA", "STANDARD_IA", "InvalidArgument")]:
        with refused(code, 400):
            S3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [
                {"Status": "Enabled", "Filter": {"Prefix": ""}, "Transitions": [
                    {"Days": 30, "StorageClass": first}, {"Days": 60, "StorageClass": then}]}]})
    S3.delete_bucket_lifecycle(Bucket=bucket)
    with refused("NoSuchLifecycleConfiguration", 404):
        S3.get_bucket_lifecycle_configuration(Bucket=bucket)


def policies(bucket):
    """A policy lets strangers and other accounts in, and keeps anybody out."""
    import json

    def statement(effect, principal, actions, resource="/*", **condition):
        one = {"Effect": effect, "Principal": principal, "Action": actions,
               "Resource": f"arn:aws:s3:::{bucket}{resource}"}
        return {**one, "Condition": condition} if condition else one

    def put(*statements):
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        S3.put_bucket_policy(Bucket=bucket, Policy=policy)
        assert S3.get_bucket_policy(Bucket=bucket)["Policy"] == policy

    S3.put_object(Bucket=bucket, Key="pub/a", Body=b"public", Tagging="secret=no")
    S3.put_object(Bucket=bucket, Key="own", Body=b"own")
    everybody = statement("Allow", "*", "s3:GetObject", "/pub/*")
    with refused("AccessDenied", 403):
        put(everybody)
    S3.delete_public_access_block(Bucket=bucket)
    with refused("NoSuchPublicAccessBlockConfiguration", 404):
        S3.get_public_access_block(Bucket=bucket)
    put(everybody)
    assert S3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    assert raw("GET", f"/{bucket}/pub/a")[2] == b"public"
    assert raw("HEAD", f"/{bucket}/pub/a")[0] == 200
    for method, path in [("GET", "/own"), ("GET", ""), ("PUT", "/pub/b"), ("DELETE", "/pub/a"), ("GET", "/pub/none?acl")]:
        status, _, text = raw(method, f"/{bucket}{path}", b"x" if method == "PUT" else None)
        assert status == 403 and b"AccessDenied" in text, (method, path, status, text)
    block = {"BlockPublicAcls": False, "IgnorePublicAcls": False, "BlockPublicPolicy": False,
             "RestrictPublicBuckets": True}
    S3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    assert raw("GET", f"/{bucket}/pub/a")[0] == 403
    S3.delete_public_access_block(Bucket=bucket)
    assert raw("GET", f"/{bucket}/pub/a")[0] == 200
    put(statement("Allow", "*", "s3:GetObject", IpAddress={"aws:SourceIp": "127.0.0.0/8"}))
    assert raw("GET", f"/{bucket}/own")[0] == 200
    assert S3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is False
    put(statement("Allow", "*", "s3:GetObject", IpAddress={"aws:SourceIp": "10.0.0.0/8"}))
    assert raw("GET", f"/{bucket}/own")[0] == 403
    put(statement("Allow", "*", "s3:GetObject", StringEquals={"s3:ExistingObjectTag/secret": "no"}))
    assert raw("GET", f"/{bucket}/pub/a")[0] == 200 and raw("GET", f"/{bucket}/own")[0] == 403
    put(statement("Allow", "*", "s3:ListBucket", "", StringLike={"s3:prefix": "pub/*"}))
    assert raw("GET", f"/{bucket}?list-type=2&prefix=pub%2F")[0] == 200
    assert raw("GET", f"/{bucket}?list-type=2")[0] == 403
    # The owner, too, can be kept out, but not from the policy.
    put(statement("Deny", "*", "s3:*", ""), statement("Deny", "*", "s3:DeleteObject", "/pub/*"))
    with refused("AccessDenied", 403):
        S3.list_objects_v2(Bucket=bucket)
    with refused("AccessDenied", 403):
        S3.delete_object(Bucket=bucket, Key="pub/a")
    assert body(Bucket=bucket, Key="own") == b"own"
    # A copy's source is the same however it is spelt.
    put(statement("Deny", "*", "s3:PutObject", "/*", StringLike={"s3:x-amz-copy-source": f"/{bucket}/own*"}))
    with refused("AccessDenied", 403):
        S3.copy_object(Bucket=bucket, Key="copied", CopySource=f"{bucket}/own")
    put(statement("Deny", "*", "s3:PutObject", "/*", StringLike={"s3:x-amz-copy-source": f"{bucket}/own*"}))
    for source, status in [(f"{bucket}/own", 403), (f"/{bucket}/ow%6E", 403), (f"%2F{bucket}%2Fown", 403),
                           (f"{bucket}/pub/a", 200)]:
        headers = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-copy-source": source}
        found, _, text = raw("PUT", f"/{bucket}/copied", headers=signed_headers(f"/{bucket}/copied", headers))
        assert found == status, (source, text)
    S3.delete_object(Bucket=bucket, Key="copied")
    put(statement("Deny", "*", "s3:DeleteObject", "/pub/*"))
    done = S3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "pub/a"}, {"Key": "x"}]})
    assert [one["Key"] for one in done["Errors"]] == ["pub/a"] and len(done["Deleted"]) == 1, done
    if keys := os.environ.get("OTHER_KEYS"):
        id, secret = keys.split(":")
        other = boto3.client("s3", aws_access_key_id=id, aws_secret_access_key=secret)
        account = boto3.client("sts", aws_access_key_id=id, aws_secret_access_key=secret)
        account = account.get_caller_identity()["Account"]
        friend = {"AWS": f"arn:aws:iam::{account}:root"}
        put(statement("Allow", friend, ["s3:GetObject", "s3:PutObject"]),
            statement("Allow", friend, "s3:ListBucket", ""))
        other.put_object(Bucket=bucket, Key="theirs", Body=b"theirs")
        assert body(Bucket=bucket, Key="theirs") == b"theirs"
        assert other.list_objects_v2(Bucket=bucket)["KeyCount"] == 3
        mine = f"others-{uuid.uuid4().hex[:8]}"
        other.create_bucket(Bucket=mine)
        other.copy_object(Bucket=mine, Key="c", CopySource={"Bucket": bucket, "Key": "own"})
        assert other.get_object(Bucket=mine, Key="c")["Body"].read() == b"own"
        with refused("AccessDenied", 403):
            S3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": mine, "Key": "c"})
        other.delete_object(Bucket=mine, Key="c")
        other.delete_bucket(Bucket=mine)
        with refused("AccessDenied", 403):
            other.delete_object(Bucket=bucket, Key="theirs")
        with refused("AccessDenied", 403):
            other.get_bucket_policy(Bucket=bucket)
        # Who may put objects may not lock them, nor tag them.
        now = datetime.datetime.now(datetime.timezone.utc)
        with refused("AccessDenied", 403):
            other.put_object(Bucket=bucket, Key="t", Body=b"x", Tagging="a=b")
        with refused("AccessDenied", 403):
            other.put_object(Bucket=bucket, Key="t", Body=b"x", ObjectLockMode="COMPLIANCE",
                             ObjectLockRetainUntilDate=now + datetime.timedelta(days=1))
        # What isn't there is said only to those who may list.
        put(statement("Allow", friend, "s3:GetObject"))
        with refused("AccessDenied", 403):
            other.get_object(Bucket=bucket, Key="none")
        # The policy is its owner's alone.
        put(statement("Allow", friend, "s3:*"), statement("Allow", friend, "s3:*", ""))
        with refused("AccessControlListNotSupported", 400):
            other.put_object(Bucket=bucket, Key="t", Body=b"x", ACL="private")
        with refused("MethodNotAllowed", 405):
            other.put_bucket_policy(Bucket=bucket, Policy="{}")
        with refused("MethodNotAllowed", 405):
            other.get_bucket_policy(Bucket=bucket)
        # A source is judged by its own tags, not by those of what it replaces.
        other.create_bucket(Bucket=mine)
        other.put_bucket_policy(Bucket=mine, Policy=json.dumps({"Statement": [
            {"Effect": "Allow", "Principal": friend, "Action": "s3:*", "Resource": f"arn:aws:s3:::{mine}/*"}]}))
        other.put_object(Bucket=mine, Key="c", Body=b"x", Tagging="secret=no")
        put(statement("Allow", friend, "s3:GetObject", StringEquals={"s3:ExistingObjectTag/secret": "no"}))
        with refused("AccessDenied", 403):
            other.copy_object(Bucket=mine, Key="c", CopySource={"Bucket": bucket, "Key": "own"})
        other.copy_object(Bucket=mine, Key="c", CopySource={"Bucket": bucket, "Key": "pub/a"},
                          TaggingDirective="REPLACE")
        other.delete_object(Bucket=mine, Key="c")
        other.delete_bucket(Bucket=mine)
        # Each of many objects is judged by its own tags, as one alone is.
        held = statement("Deny", friend, "s3:DeleteObject", StringEquals={"s3:ExistingObjectTag/hold": "yes"})
        put(statement("Allow", friend, "s3:*"), held)
        S3.put_object(Bucket=bucket, Key="held", Body=b"x", Tagging="hold=yes")
        S3.put_object(Bucket=bucket, Key="loose", Body=b"x", Tagging="hold=no")
        with refused("AccessDenied", 403):
            other.delete_object(Bucket=bucket, Key="held")
        done = other.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "held"}, {"Key": "loose"}]})
        assert [one["Key"] for one in done["Deleted"]] == ["loose"], done
        assert [(one["Key"], one["Code"]) for one in done["Errors"]] == [("held", "AccessDenied")], done
        # A form without a key, however its type is spelt, is judged by its key.
        for kind in ["multipart/form-data", "Multipart/Form-Data"]:
            form = (b'--b\r\nContent-Disposition: form-data; name="key"\r\n\r\nsneaked\r\n--b\r\n'
                    b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n--b--\r\n')
            status, _, text = raw("POST", f"/{bucket}", form, {"Content-Type": f"{kind}; boundary=b"})
            assert status == 403, (kind, status, text)
    for wrong in ["no json", "{}", '{"Version": "1999-01-01", "Statement": []}']:
        with refused("MalformedPolicy", 400):
            S3.put_bucket_policy(Bucket=bucket, Policy=wrong)
    with refused("MalformedPolicy", 400):
        put({**everybody, "Resource": "arn:aws:s3:::another/*"})
    with refused("MalformedPolicy", 400):
        put(statement("Allow", "*", "s3:PutObject", ""))
    # Whatever a policy says, who has no key copies nothing and begins no upload.
    S3.delete_public_access_block(Bucket=bucket)
    put(statement("Allow", "*", "s3:*"))
    assert raw("PUT", f"/{bucket}/theirs", b"x")[0] == 200
    for method, path, headers in [("POST", "/m?uploads", {}),
                                  ("PUT", "/c", {"x-amz-copy-source": f"{bucket}/theirs"})]:
        status, _, text = raw(method, f"/{bucket}{path}", headers=headers)
        assert status == 403 and b"Please authenticate" in text, (path, status, text)
    with refused("InvalidBucketOwnerAWSAccountID", 400):
        S3.list_objects_v2(Bucket=bucket, ExpectedBucketOwner="unknown")
    S3.delete_bucket_policy(Bucket=bucket)
    with refused("NoSuchBucketPolicy", 404):
        S3.get_bucket_policy(Bucket=bucket)


def refused_bodies(bucket):
    """A body that was announced and never sent is not taken for the next request."""
    import http.client
    connection = http.client.HTTPConnection(ENDPOINT.removeprefix("http://"))
    connection.putrequest("PUT", f"/{bucket}/k")
    connection.putheader("Content-Length", "1")
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 403 and answer.headers["Connection"] == "close", answer.headers
    connection.close()
    # One whose body is taken goes on.
    url = S3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    path = url.removeprefix(ENDPOINT)
    for _ in range(2):
        connection.request("PUT", path, body=b"x")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200 and "Connection" not in answer.headers, answer.headers


def hostile(bucket):
    """What nobody sends in good faith is refused with the field's own error, and costs little."""
    bomb = "<!DOCTYPE a [<!ENTITY a0 'x'>" + "".join(
        f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10)) + "]>"
    outside = "<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"
    for head, entity in [(bomb, "&a9;"), (outside, "&e;"), ("", "&undefined;"), ("", "<Deep>" * 50000)]:
        text = f"{head}<Tagging><TagSet><Tag><Key>k{entity}</Key><Value>v</Value></Tag></TagSet></Tagging>"
        url = presigned_with(bucket, {}, "?tagging")
        begun = time.monotonic()
        status, _, answer = raw("PUT", url, text.encode(), {"Content-MD5": md5(text)})
        assert status == 400 and b"<Code>MalformedXML</Code>" in answer, (entity[:20], status, answer)
        assert time.monotonic() - begun < 5
    with refused("NoSuchTagSet", 404):
        S3.get_bucket_tagging(Bucket=bucket)
    # Keys are names, not paths, and buckets are neither.
    for key in ["../../../etc/passwd", "a/../b", "./c", "\x00e", "%2e%2e/d", "f//g", "h\\..\\i"]:
        S3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert body(Bucket=bucket, Key=key) == key.encode(), key
        S3.delete_object(Bucket=bucket, Key=key)  # by itself: XML has no word for one of them
    for name in ["..", ".", "a..b", "../x", "boira", "A_b", "xn--a", "1.2.3.4"]:
        url = f"{ENDPOINT}/{urllib.parse.quote(name, safe='')}"
        assert raw("PUT", url, b"")[0] in [400, 403, 404, 405], name
    with refused("KeyTooLongError", 400):
        S3.put_object(Bucket=bucket, Key="k" * 1025, Body=b"")
    # Bodies that aren't what their headers say.
    for headers, data, code in [({"Content-MD5": md5("other")}, b"x", b"BadDigest"),
                                ({"Content-MD5": "nonsense"}, b"x", b"InvalidDigest"),
                                ({"x-amz-checksum-crc32": "AAAAAA=="}, b"x", b"BadDigest"),
                                ({"x-amz-checksum-sha256": "AAAA"}, b"x", b"InvalidRequest")]:
        extra = {name: value for name, value in headers.items() if name.startswith("x-")}
        url = presigned_with(bucket, extra)
        status, _, answer = raw("PUT", url, data, headers)
        assert status == 400 and code in answer, (headers, status, answer)
    chunks = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length": "4",
              "x-amz-trailer": "x-amz-checksum-crc32", "Content-Encoding": "aws-chunked"}
    for data in [b"4\r\nab", b"zz\r\nabcd\r\n0\r\n\r\n", b"ffffffffffffffff\r\nabcd\r\n0\r\n\r\n",
                 b"8\r\nabcdefgh\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n",
                 b"4\r\nabcd\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", b"4\r\nabcd\r\n0\r\n\r\n"]:
        status, _, answer = raw("PUT", f"/{bucket}/k", data, signed_headers(f"/{bucket}/k", chunks))
        assert status in [400, 403], (data, status, answer)
    with refused("404"):
        S3.head_object(Bucket=bucket, Key="k")
    url = presigned_with(bucket, {})
    for wrong in [url + "0", url[:-1], url.replace("us-east-1", "us-east-9"), url.replace("%2F20", "%2F-0"),
                  url.replace("X-Amz-Date=20", "X-Amz-Date=-0"), url.replace("X-Amz-Expires=60", "X-Amz-Expires=-1"),
                  url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000")]:
        status, _, answer = raw("PUT", wrong, b"x")
        assert status in [400, 403], (wrong, status, answer)


def md5(text):
    return base64.b64encode(hashlib.md5(text.encode()).digest()).decode()


def signed(path, headers, auth, method="PUT", region="us-east-1", **more):
    """A request to put what the path names, with these headers signed."""
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials
    request = botocore.awsrequest.AWSRequest(method, ENDPOINT + path, headers=dict(headers))
    keys = botocore.credentials.Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    getattr(botocore.auth, auth)(keys, "s3", region, **more).add_auth(request)
    return request


def presigned_with(bucket, headers, what="/k", method="PUT"):
    """A URL to put the key k, or something else of the bucket, with these headers signed."""
    return signed(f"/{bucket}{what}", headers, "S3SigV4QueryAuth", method=method, expires=60).url


def signed_headers(path, headers):
    """Headers to put what the path names, signed with what they say of the body."""
    return dict(signed(path, headers, "SigV4Auth").headers.items())


def lengthless(bucket):
    """Who brings no body needn't say that it is empty, as curl doesn't; only an object's length is asked for."""
    host = urllib.parse.urlsplit(ENDPOINT)

    def put(path, headers):
        headers = signed_headers(path, {"x-amz-content-sha256": "UNSIGNED-PAYLOAD", **headers})
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"PUT {path} HTTP/1.1\r\nHost: {host.netloc}\r\nConnection: close\r\n{lines}\r\n"
        with socket.create_connection((host.hostname, host.port), timeout=10) as connection:
            connection.sendall(request.encode())
            return connection.makefile("rb").read()

    S3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]})
    for path, headers in [("", {}), ("?acl=", {"x-amz-acl": "private"})]:
        answer = put(f"/{bucket}{path}", headers)
        assert answer.startswith(b"HTTP/1.1 200"), answer
    answer = put(f"/{bucket}/k", {})
    assert answer.startswith(b"HTTP/1.1 411") and b"MissingContentLength" in answer, answer


def version_2(bucket):
    """Version 2 over a bucket's path, with a slash at its end and without: AWS takes both."""
    for path in [f"/{bucket}", f"/{bucket}/", f"/{bucket}?acl", f"/{bucket}/?acl"]:
        date = email.utils.formatdate(usegmt=True)
        secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
        mac = hmac.new(secret, f"GET\n\n\n{date}\n{path}".encode(), hashlib.sha1).digest()
        authorization = f"AWS {os.environ['AWS_ACCESS_KEY_ID']}:{base64.b64encode(mac).decode()}"
        headers = {"Date": date, "Authorization": authorization}
        status, _, answer = raw("GET", path.replace("/?", "?").rstrip("/"), headers=headers)
        assert status == 200, (path, answer)
        other = "E=" if authorization.endswith("A=") else "A="
        headers["Authorization"] = authorization[:-2] + other
        status, _, answer = raw("GET", f"/{bucket}", headers=headers)
        assert status == 403 and b"SignatureDoesNotMatch" in answer, (status, answer)


def malformed(_):
    """What is no request, and what comes after one, gets an answer."""
    host = urllib.parse.urlsplit(ENDPOINT)

    def said(data):
        with socket.create_connection((host.hostname, host.port), timeout=10) as connection:
            connection.sendall(data)
            return connection.recv(100).split(b"\r\n")[0]

    assert said(b"rubbish\r\n\r\n").startswith(b"HTTP/1.1 400"), said(b"rubbish\r\n\r\n")
    assert said(b"GET / HTTP/1.1\r\nHost: x\r\nx-amz-meta-a: \x04\r\n\r\n").startswith(b"HTTP/1.1 400")
    huge = b"GET / HTTP/1.1\r\nHost: x\r\nx-a: " + b"a" * (1 << 20) + b"\r\n\r\n"
    assert said(huge).split()[1] in [b"431", b"400"], said(huge)
    # More bytes than the request has must not keep its answer back.
    assert said(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /").startswith(b"HTTP/1.1 403")
    assert said(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 405")


def walrus(bucket):
    """Eucalyptus' path: the same store, signed with that path; buckets made there have ACLs."""
    below = ENDPOINT + "/services/Walrus"
    for version in ["s3v4", "s3"]:
        old = boto3.client("s3", endpoint_url=below, config=botocore.config.Config(signature_version=version))
        name = f"{bucket}-{version}"
        old.create_bucket(Bucket=name)
        assert name in [one["Name"] for one in old.list_buckets()["Buckets"]]
        rules = S3.get_bucket_ownership_controls(Bucket=name)["OwnershipControls"]["Rules"]
        assert rules == [{"ObjectOwnership": "ObjectWriter"}], rules
        old.put_object(Bucket=name, Key="a b/ü+", Body=b"as ever", ACL="public-read", Metadata={"x": "1"})
        assert body(Bucket=name, Key="a b/ü+") == b"as ever"
        assert raw("GET", f"{below}/{name}/a%20b/%C3%BC%2B")[2] == b"as ever"
        assert raw("GET", f"{below}/{name}")[0] == 403
        assert [one["Key"] for one in old.list_objects(Bucket=name, Prefix="a b/")["Contents"]] == ["a b/ü+"]
        url = old.generate_presigned_url("get_object", Params={"Bucket": name, "Key": "a b/ü+"}, ExpiresIn=60)
        assert raw("GET", url)[2] == b"as ever"
        assert raw("GET", url.replace("as%20ever", "x").replace("Expires=", "Expires=1"))[0] in [400, 403]
        upload = old.create_multipart_upload(Bucket=name, Key="m")["UploadId"]
        tag = old.upload_part(Bucket=name, Key="m", UploadId=upload, PartNumber=1, Body=b"m")["ETag"]
        old.complete_multipart_upload(Bucket=name, Key="m", UploadId=upload,
                                      MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]})
        with refused("SignatureDoesNotMatch", 403):
            boto3.client("s3", endpoint_url=below, aws_secret_access_key="wrong",
                         aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
                         config=botocore.config.Config(signature_version=version)).list_buckets()
        old.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "a b/ü+"}, {"Key": "m"}]})
        old.delete_bucket(Bucket=name)
    # Signatures of chunks go on from the request's: they can't be judged below it, and that is said.
    path = f"/services/Walrus/{bucket}/k"
    chunks = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "x-amz-decoded-content-length": "4"}
    status, told, answer = raw("PUT", path, b"4;chunk-signature=0", signed_headers(path, chunks))
    assert status == 501 and b"NotImplemented" in answer, (status, answer)
    assert told["x-amz-request-id"].encode() in answer, (told, answer)


def hosts(bucket):
    """Buckets as names of hosts, below the domain of the setting s3_domain."""
    domain = os.environ.get("S3_DOMAIN")
    if not domain:
        return
    port = ENDPOINT.rsplit(":", 1)[1]
    # Names of a domain need no DNS here: the connection goes where the endpoint is.
    import socket
    resolve = socket.getaddrinfo
    socket.getaddrinfo = lambda host, *rest, **more: resolve(
        "127.0.0.1" if str(host).endswith(domain) else host, *rest, **more)
    virtual = boto3.client("s3", endpoint_url=f"http://{domain}:{port}",
                           config=botocore.config.Config(s3={"addressing_style": "virtual"}))
    virtual.put_object(Bucket=bucket, Key="a b/ü", Body=b"by host")
    assert virtual.get_object(Bucket=bucket, Key="a b/ü")["Body"].read() == b"by host"
    assert body(Bucket=bucket, Key="a b/ü") == b"by host"
    assert virtual.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert bucket in [one["Name"] for one in virtual.list_buckets()["Buckets"]]
    upload = virtual.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    virtual.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    virtual.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a b/ü"}]})
    # There, Eucalyptus' path is a key like others; and version 2 signs keys without a slash as they are.
    virtual.put_object(Bucket=bucket, Key="services/Walrus/k", Body=b"x")
    assert [one["Key"] for one in S3.list_objects_v2(Bucket=bucket)["Contents"]] == ["services/Walrus/k"]
    old = boto3.client("s3", endpoint_url=f"http://{domain}:{port}",
                       config=botocore.config.Config(signature_version="s3", s3={"addressing_style": "virtual"}))
    old.put_object(Bucket=bucket, Key="plain", Body=b"by host and version 2")
    assert old.get_object(Bucket=bucket, Key="plain")["Body"].read() == b"by host and version 2"


def subresources(bucket):
    """A query that isn't served never makes a request the plain one."""
    S3.put_object(Bucket=bucket, Key="k", Body=b"stays")
    for method, what, status, code in [
            ("DELETE", "?metadataConfiguration", 501, b"NotImplemented"), ("DELETE", "?acl", 405, b"MethodNotAllowed"),
            ("DELETE", "?versioning", 405, b"MethodNotAllowed"), ("PUT", "/k?encryption", 501, b"NotImplemented"),
            ("PUT", "/k?renameObject", 501, b"NotImplemented"), ("DELETE", "/k?legal-hold", 405, b"MethodNotAllowed"),
            ("PUT", "/k?versionId=x", 400, b"InvalidArgument"), ("PUT", "/k?partNumber=3", 400, b"InvalidArgument"),
            ("GET", "?abac", 501, b"NotImplemented"), ("DELETE", "/k?versionId=abc", 400, b"InvalidArgument")]:
        url = presigned_with(bucket, {}, what, method)
        found, _, text = raw(method, url, b"x" if method == "PUT" else None)
        assert (found, code in text) == (status, True), (method, what, found, text)
    assert body(Bucket=bucket, Key="k") == b"stays"
    # What is said of a document is verified, and needed where many are deleted.
    document = "<Delete><Object><Key>k</Key></Object></Delete>"
    for headers, text, code in [({}, document, b"InvalidRequest"), ({"Content-MD5": md5("other")}, document, b"BadDigest"),
                                ({"Content-MD5": md5(cdata := document.replace(">k<", "><![CDATA[k]]><"))}, cdata, b"MalformedXML")]:
        found, _, answer = raw("POST", presigned_with(bucket, {}, "?delete", "POST"), text.encode(), headers)
        assert found == 400 and code in answer, (headers, found, answer)
    assert body(Bucket=bucket, Key="k") == b"stays"
    for what, code in [("analytics", "analytics"), ("metrics", "metrics"), ("inventory", "inventory"),
                       ("intelligent-tiering", "tiering")]:
        found, _, answer = raw("GET", presigned_with(bucket, {}, f"?{what}&id=x", "GET"))
        assert found == 404 and b"NoSuchConfiguration" in answer, (what, found, answer)
    found, _, answer = raw("GET", "/v20180820/tags/arn%3Aaws%3As3%3A%3A%3Ax", headers={"x-amz-account-id": "1"})
    assert found == 400 and b"<Code>UnsupportedOperation" in answer, (found, answer)
    # HEAD says what GET would.
    for more, status in [({"Range": "bytes=1-2"}, 206), ({}, 200)]:
        url = S3.generate_presigned_url("head_object", {"Bucket": bucket, "Key": "k", "ResponseContentType": "text/x"})
        found, headers, _ = raw("HEAD", url, headers=more)
        assert (found, headers["content-type"]) == (status, "text/x"), (found, headers)
    assert S3.head_object(Bucket=bucket, Key="k", Range="bytes=1-2")["ContentRange"] == "bytes 1-2/5"
    # Clients that begin in another region are told which it is.
    assert boto3.client("s3", region_name="eu-west-9").head_object(Bucket=bucket, Key="k")["ContentLength"] == 5
    said = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    named = dict(signed(f"/{bucket}/k", said, "SigV4Auth", region="eu-west-9").headers.items())
    found, _, answer = raw("PUT", f"/{bucket}/k", b"x", named)
    assert found == 400 and b"<Region>us-east-1</Region>" in answer, (found, answer)
    rule = {"ID": "a\nb", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 3}}
    S3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    assert 'rule-id="a%0Ab"' in S3.head_object(Bucket=bucket, Key="k")["Expiration"]
    minimum = S3.get_bucket_lifecycle_configuration(Bucket=bucket)["TransitionDefaultMinimumObjectSize"]
    assert minimum == "all_storage_classes_128K", minimum
    S3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]},
                                          TransitionDefaultMinimumObjectSize="varies_by_storage_class")
    minimum = S3.get_bucket_lifecycle_configuration(Bucket=bucket)["TransitionDefaultMinimumObjectSize"]
    assert minimum == "varies_by_storage_class", minimum
    S3.put_object(Bucket=bucket, Key="moved", Body=b"x", WebsiteRedirectLocation="/there")
    S3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/moved")
    assert "WebsiteRedirectLocation" not in S3.head_object(Bucket=bucket, Key="copy")
    S3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/copy", WebsiteRedirectLocation="/here")
    assert S3.head_object(Bucket=bucket, Key="copy")["WebsiteRedirectLocation"] == "/here"
    upload = S3.create_multipart_upload(Bucket=bucket, Key="sums", ChecksumAlgorithm="SHA256")["UploadId"]
    with refused("InvalidRequest", 400):
        client(request_checksum_calculation="when_required").upload_part(
            Bucket=bucket, Key="sums", UploadId=upload, PartNumber=1, Body=b"x")
    part = S3.upload_part(Bucket=bucket, Key="sums", UploadId=upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="SHA256")
    with refused("InvalidRequest", 400):
        S3.complete_multipart_upload(Bucket=bucket, Key="sums", UploadId=upload,
                                     MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    tagged = f"tagged-{uuid.uuid4().hex[:8]}"
    document = "<CreateBucketConfiguration><Tags><Tag><Key>a</Key><Value>b</Value></Tag></Tags></CreateBucketConfiguration>"
    assert raw("PUT", presigned_with(tagged, {}, ""), document.encode())[0] == 200
    assert S3.get_bucket_tagging(Bucket=tagged)["TagSet"] == [{"Key": "a", "Value": "b"}]
    S3.delete_bucket(Bucket=tagged)


def chunked(bucket):
    """A body may be one chunk of any size, as Go's SDK sends it over TLS, and costs little memory."""
    import zlib
    data = os.urandom(MIB) * 64
    crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    whole = f"{len(data):x}\r\n".encode() + data + f"\r\n0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n".encode()
    said = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-trailer": "x-amz-checksum-crc32",
            "x-amz-decoded-content-length": str(len(data)), "Content-Encoding": "aws-chunked"}
    path = f"/{bucket}/k"
    status, headers, text = raw("PUT", path, whole, signed_headers(path, said))
    assert status == 200 and headers["x-amz-checksum-crc32"] == crc, (status, text)
    assert body(Bucket=bucket, Key="k") == data
    assert "ContentEncoding" not in S3.head_object(Bucket=bucket, Key="k")
    other = whole.replace(crc.encode(), b"AAAAAA==")
    status, _, text = raw("PUT", path, other, signed_headers(path, said))
    assert status == 400 and b"BadDigest" in text, (status, text)
    # Who has no key sends the same.
    S3.delete_public_access_block(Bucket=bucket)
    everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    S3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [everybody]}))
    status, headers, text = raw("PUT", f"/{bucket}/open", whole, said)
    assert status == 200 and headers["x-amz-checksum-crc32"] == crc, (status, text)
    assert raw("PUT", f"/{bucket}/open", other, said)[0] == 400
    S3.delete_bucket_policy(Bucket=bucket)
    assert body(Bucket=bucket, Key="open") == data


def conditions_of_policies(bucket):
    """What SDKs say only once counts for all of an upload, and what is in a body is judged, too."""
    S3.put_object(Bucket=bucket, Key="k", Body=b"x")
    resource = f"arn:aws:s3:::{bucket}/*"

    def put(*statements):
        statements = [{"Principal": "*", "Resource": resource, **one} for one in statements]
        S3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))

    put({"Effect": "Deny", "Action": "s3:PutObject", "Condition": {"StringNotEquals": {"s3:x-amz-storage-class": "STANDARD_IA"}}})
    with refused("AccessDenied", 403):
        S3.put_object(Bucket=bucket, Key="large", Body=b"x")
    transfer = boto3.s3.transfer.TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    S3.upload_fileobj(io.BytesIO(b"x" * 11 * MIB), bucket, "large", Config=transfer, ExtraArgs={"StorageClass": "STANDARD_IA"})
    head = S3.head_object(Bucket=bucket, Key="large")
    assert (head["ContentLength"], head["StorageClass"]) == (11 * MIB, "STANDARD_IA"), head
    put({"Effect": "Deny", "Action": "s3:PutObjectTagging", "Condition": {
        "ForAnyValue:StringNotEquals": {"s3:RequestObjectTagKeys": ["team", "stage"]}}})
    S3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "team", "Value": "a"}]})
    with refused("AccessDenied", 403):
        S3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "secret", "Value": "a"}]})
    put({"Effect": "Deny", "Action": "s3:PutObject", "Condition": {
        "Null": {"s3:x-amz-server-side-encryption-customer-algorithm": "false"}}})
    S3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with refused("AccessDenied", 403):
        S3.put_object(Bucket=bucket, Key="k", Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey=b"k" * 32)
    put({"Effect": "Deny", "Action": "s3:GetObjectAttributes"})
    with refused("AccessDenied", 403):
        S3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ETag"])
    account = boto3.client("sts").get_caller_identity()["Account"]
    put({"Effect": "Deny", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/${{aws:PrincipalAccount}}/*"})
    S3.put_object(Bucket=bucket, Key=f"{account}/k", Body=b"x")
    with refused("AccessDenied", 403):
        S3.get_object(Bucket=bucket, Key=f"{account}/k")
    assert body(Bucket=bucket, Key="k") == b"x"
    # Terraform's modules deny old TLS, and name conditions that no request has here.
    put({"Effect": "Deny", "Action": "s3:*", "Condition": {"NumericLessThan": {"s3:TlsVersion": 1.2}}},
        {"Effect": "Allow", "Principal": {"Service": "logging.s3.amazonaws.com"}, "Action": "s3:PutObject",
         "Condition": {"StringEquals": {"aws:SourceAccount": account}}})
    assert body(Bucket=bucket, Key="k") == b"x"
    with refused("MalformedPolicy", 400):
        put({"Effect": "Deny", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/${{aws:nickname}}/*"})
    S3.delete_bucket_policy(Bucket=bucket)


def details(bucket):
    """What errors tell in elements of their own, and smaller things that AWS answers: read off AWS by the
    tests of moto that are verified there, and by botocore's own."""
    def told(error, **wanted):
        found = error.response["Error"]
        kind = error.response["ResponseMetadata"]["HTTPHeaders"]["content-type"]
        assert kind == "application/xml", error.response
        assert {name: found.get(name) for name in wanted} == wanted, found

    S3.put_object(Bucket=bucket, Key="k", Body=b"x" * 10)
    with refused("NoSuchKey", 404) as error:
        S3.get_object(Bucket=bucket, Key="of none/<&")
    told(error, Key="of none/<&")
    with refused("NoSuchKey", 404) as error:
        S3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "no source"})
    told(error, Key="no source")
    with refused("NoSuchBucket", 404) as error:
        S3.list_objects_v2(Bucket=bucket + "-none")
    told(error, BucketName=bucket + "-none")
    for asked, code in [("cors", "NoSuchCORSConfiguration"), ("tagging", "NoSuchTagSet")]:
        with refused(code, 404) as error:
            getattr(S3, f"get_bucket_{asked}")(Bucket=bucket)
        told(error, BucketName=bucket)
    with refused("PreconditionFailed", 412) as error:
        S3.put_object(Bucket=bucket, Key="k", Body=b"y", IfNoneMatch="*")
    told(error, Condition="If-None-Match")
    with refused("PreconditionFailed", 412) as error:
        S3.get_object(Bucket=bucket, Key="k", IfMatch='"other"')
    told(error, Condition="If-Match")
    with refused("PreconditionFailed", 412) as error:
        S3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "k"},
                       CopySourceIfNoneMatch=S3.head_object(Bucket=bucket, Key="k")["ETag"])
    told(error, Condition="x-amz-copy-source-If-None-Match")
    # Tags count with one quote, and without.
    tag = S3.head_object(Bucket=bucket, Key="k")["ETag"]
    for maker in [S3, client(signature_version="s3")]:
        for spelt in [tag, tag[1:], tag[:-1], tag[1:-1]]:
            maker.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "k"}, CopySourceIfMatch=spelt)
            maker.put_object(Bucket=bucket, Key="k", Body=b"x" * 10, IfMatch=spelt)
    with refused("PreconditionFailed", 412):
        S3.get_object(Bucket=bucket, Key="k", IfMatch="of another kind")
    with refused("InvalidRange", 416) as error:
        S3.get_object(Bucket=bucket, Key="k", Range="bytes=20-30")
    told(error, RangeRequested="bytes=20-30", ActualObjectSize="10")
    with refused("NoSuchUpload", 404) as error:
        S3.list_parts(Bucket=bucket, Key="k", UploadId="none")
    told(error, UploadId="none")
    with refused("KeyTooLongError", 400) as error:
        S3.put_object(Bucket=bucket, Key="k" * 1025)
    told(error, Size="1025", MaxSizeAllowed="1024")
    # Who signs otherwise is told what would have been signed here.
    wrong = client(aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key="wrong")
    asked = {}
    wrong.meta.events.register("before-send.s3", lambda request, **_: asked.update(request.headers))
    with refused("SignatureDoesNotMatch", 403) as error:
        wrong.list_objects_v2(Bucket=bucket, Prefix="a b")
    signature = asked["Authorization"].decode().rsplit("=", 1)[1]
    told(error, AWSAccessKeyId=os.environ["AWS_ACCESS_KEY_ID"], SignatureProvided=signature)
    canonical, text = error.response["Error"]["CanonicalRequest"], error.response["Error"]["StringToSign"]
    assert canonical.startswith(f"GET\n/{bucket}\nencoding-type=url&list-type=2&prefix=a%20b\nhost:"), canonical
    assert text.startswith("AWS4-HMAC-SHA256\n") and text.endswith(hashlib.sha256(canonical.encode()).hexdigest()), text
    assert error.response["Error"]["StringToSignBytes"] == text.encode().hex(" "), error.response
    with refused("MissingRequestBodyError", 400):
        S3.put_object_lock_configuration(Bucket=bucket)
    with refused("InvalidTag", 400) as error:
        S3.put_object(Bucket=bucket, Key="k", Tagging="aws:a=b")
    told(error, Message="Your TagKey cannot be prefixed with aws:")
    # A class that is named is a change, be it the one that it has.
    with refused("InvalidRequest", 400):
        S3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "k"})
    S3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "k"}, StorageClass="STANDARD")
    answer = S3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204, answer
    head = S3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
    assert head["content-type"] == "application/xml", head
    name = "attachment; filename=5\u5c0f\u6642.jpg"
    for maker in [client(), V4, client(signature_version="s3")]:
        maker.put_object(Bucket=bucket, Key="named", ContentDisposition=name, Body=b"x")
        _, headers, _ = raw("GET", V4.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "named"}))
        assert headers["content-disposition"].encode("latin-1").decode() == name, headers
    upload = S3.create_multipart_upload(Bucket=bucket, Key="m", ChecksumAlgorithm="SHA256")["UploadId"]
    part = S3.upload_part(Bucket=bucket, Key="m", UploadId=upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="SHA256")
    S3.complete_multipart_upload(Bucket=bucket, Key="m", UploadId=upload, MultipartUpload={"Parts": [
        {"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}]})
    whole = S3.head_object(Bucket=bucket, Key="m", ChecksumMode="ENABLED")["ChecksumSHA256"]
    asked = S3.get_object_attributes(Bucket=bucket, Key="m", ObjectAttributes=["Checksum"])["Checksum"]
    assert whole == asked["ChecksumSHA256"] + "-1", (whole, asked)
    S3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    marker = S3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    with refused("405", 405) as error:
        S3.head_object(Bucket=bucket, Key="k", VersionId=marker)
    assert error.response["ResponseMetadata"]["HTTPHeaders"]["allow"] == "DELETE", error.response
    with refused("NoSuchVersion", 404) as error:
        S3.get_object(Bucket=bucket, Key="k", VersionId="a" * 32)
    told(error, Key="k", VersionId="a" * 32)


def other_clients(bucket):
    """What browsers, download managers and older programs say, beside what boto3 does."""
    S3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    url = V4.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"})
    status, headers, _ = raw("GET", url)
    tag, date = headers["etag"], headers["last-modified"]

    def get(**more):
        status, _, text = raw("GET", url, headers={name.replace("_", "-"): value for name, value in more.items()})
        return status, text
    # A download goes on only while it is the same object.
    assert get(Range="bytes=0-1", If_Range=tag) == (206, b"01")
    assert get(Range="bytes=0-1", If_Range=date) == (206, b"01")
    assert get(Range="bytes=0-1", If_Range='"another"') == (200, b"0123456789")
    assert get(Range="bytes=0-1", If_Range="Thu, 01 Jan 1970 00:00:00 GMT") == (200, b"0123456789")
    assert get(Range=f"BYTES=8-{'9' * 30}") == (206, b"89")
    assert get(Range=f"bytes=-{'9' * 30}") == (206, b"0123456789")
    # Dates as they were spelt once; what is none is ignored.
    earlier = datetime.datetime(2000, 1, 2, tzinfo=datetime.timezone.utc)
    for spelt in [earlier.strftime("%A, %d-%b-%y %H:%M:%S GMT"), earlier.strftime("%a %b %e %H:%M:%S %Y")]:
        assert get(If_Unmodified_Since=spelt)[0] == 412, spelt
        assert get(If_Modified_Since=spelt)[0] == 200, spelt
    for nonsense in ["yesterday", "0"]:
        assert get(If_Unmodified_Since=nonsense)[0] == 200
        assert get(If_Modified_Since=nonsense)[0] == 200
    # Expires is any text.
    for text in ["0", "-1", "Sun, 21 Oct 2015 07:28:00 GMT", "2030-01-01T00:00:00Z"]:
        put = V4.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "e"})
        assert raw("PUT", put, b"x", {"Expires": text})[0] == 200, text
        for method in ["get_object", "head_object"]:
            url_of = V4.generate_presigned_url(method, {"Bucket": bucket, "Key": "e"})
            verb = method.split("_")[0].upper()
            assert raw(verb, url_of)[1]["expires"] == text, (text, method)
    # A form's fields beyond ASCII are kept as those of requests are.
    form = S3.generate_presigned_post(bucket, "form", Fields={"x-amz-meta-a": "b\u00e4r", "Expires": "0"},
                                      Conditions=[["starts-with", "$x-amz-meta-a", ""], ["starts-with", "$Expires", ""]])
    parts = b"".join(b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value.encode())
                     for name, value in form["fields"].items())
    parts += b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n--b--\r\n'
    status, _, text = raw("POST", f"/{bucket}", parts, {"Content-Type": "multipart/form-data; boundary=b"})
    assert status == 204, text
    head = raw("HEAD", V4.generate_presigned_url("head_object", {"Bucket": bucket, "Key": "form"}))[1]
    assert email.header.decode_header(head["x-amz-meta-a"])[0][0].decode() == "b\u00e4r", head["x-amz-meta-a"]
    assert head["expires"] == "0", head
    # A carriage return is no end of a line.
    S3.put_object(Bucket=bucket, Key="a\rb", Body=b"x")
    upload = S3.create_multipart_upload(Bucket=bucket, Key="a\rb")
    assert upload["Key"] == "a\rb", upload
    done = S3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a\rb"}]})
    assert done["Deleted"][0]["Key"] == "a\rb", done
    # Where a bucket is, everybody may know.
    status, headers, _ = raw("HEAD", f"/{bucket}")
    assert (status, headers["x-amz-bucket-region"]) == (403, "us-east-1"), headers
    with refused("InvalidRedirectLocation", 400):
        S3.put_object(Bucket=bucket, Key="w", Body=b"x", WebsiteRedirectLocation="nowhere")
    for broken, code in [(url.replace("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=FOO"), b"AuthorizationQueryParametersError"),
                         (url.split("&X-Amz-Signature")[0], b"AuthorizationQueryParametersError"),
                         (url.replace("X-Amz-Expires=3600", "X-Amz-Expires=x"), b"AuthorizationQueryParametersError")]:
        status, _, text = raw("GET", broken)
        assert status == 400 and code in text, (broken, text)
    for method in ["POST", "PATCH"]:
        status, _, text = raw(method, f"/{bucket}/k", b"x")
        assert status == 405 and b"MethodNotAllowed" in text, (method, text)
    status, _, text = raw("GET", f"/{bucket}/k", headers={"Authorization": "Basic eDp5"})
    assert status == 400 and b"InvalidArgument" in text, text


def what_readers_may_know(bucket):
    """Locks and tags are told to who may read them, and conditions are for who may read the object."""
    other, locked = friend(), f"locked-{uuid.uuid4().hex[:8]}"
    S3.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    S3.put_object(Bucket=locked, Key="k", Body=b"x", Tagging="a=b", ObjectLockMode="GOVERNANCE",
                  ObjectLockRetainUntilDate=until, ObjectLockLegalHoldStatus="ON")
    key, secret = os.environ["OTHER_KEYS"].split(":")
    sts = boto3.client("sts", aws_access_key_id=key, aws_secret_access_key=secret)
    whom = {"AWS": sts.get_caller_identity()["Account"]}

    def allow(*actions, **condition):
        S3.put_bucket_policy(Bucket=locked, Policy=json.dumps({"Statement": [
            {"Effect": "Allow", "Principal": whom, "Action": list(actions), "Resource": f"arn:aws:s3:::{locked}/*",
             **({"Condition": condition} if condition else {})}]}))
    allow("s3:GetObject")
    for seen in [other.get_object(Bucket=locked, Key="k"), other.head_object(Bucket=locked, Key="k")]:
        told = [name for name in ["ObjectLockMode", "ObjectLockLegalHoldStatus", "TagCount"] if name in seen]
        assert told == [], told
    allow("s3:GetObject", "s3:GetObjectRetention", "s3:GetObjectTagging")
    seen = other.get_object(Bucket=locked, Key="k")
    assert seen["ObjectLockMode"] == "GOVERNANCE" and seen["TagCount"] == 1, seen
    assert "ObjectLockLegalHoldStatus" not in seen, seen
    own = S3.get_object(Bucket=locked, Key="k")
    assert own["ObjectLockLegalHoldStatus"] == "ON" and own["TagCount"] == 1, own
    tag = S3.put_object(Bucket=locked, Key="c", Body=b"x")["ETag"]
    allow("s3:PutObject", "s3:DeleteObject")
    with refused("AccessDenied", 403):
        other.put_object(Bucket=locked, Key="c", Body=b"y", IfMatch=tag)
    with refused("AccessDenied", 403):
        other.delete_object(Bucket=locked, Key="c", IfMatch=tag)
    done = other.delete_objects(Bucket=locked, Delete={"Objects": [{"Key": "c", "ETag": tag}]})
    assert done["Errors"][0]["Code"] == "AccessDenied", done
    # "Enforce conditional writes": parts of uploads make no object yet.
    allow("s3:PutObject", Null={"s3:if-none-match": "false"}, Bool={"s3:ObjectCreationOperation": "true"})
    other.put_object(Bucket=locked, Key="n", Body=b"x", IfNoneMatch="*")
    with refused("AccessDenied", 403):
        other.put_object(Bucket=locked, Key="n", Body=b"x")
    S3.put_object_legal_hold(Bucket=locked, Key="k", LegalHold={"Status": "OFF"})
    S3.delete_bucket_policy(Bucket=locked)
    for version in S3.list_object_versions(Bucket=locked).get("Versions", []):
        S3.delete_object(Bucket=locked, Key=version["Key"], VersionId=version["VersionId"],
                         BypassGovernanceRetention=True)
    S3.delete_bucket(Bucket=locked)


def empty_and_delete(bucket):
    for upload in S3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        S3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    boto3.resource("s3").Bucket(bucket).object_versions.delete()
    S3.delete_bucket(Bucket=bucket)


CHAPTERS = [buckets, plain_answers, objects, ranges, conditions, listing, copying, checksums, multipart,
            transfers, versions, deleting, tagging, presigned, posting, strangers, acls, what_others_could_try, encryption, locks,
            origins, lifecycle, policies,
            refused_bodies, hostile, lengthless, version_2, malformed, walrus, hosts, subresources, chunked, conditions_of_policies,
            details, other_clients, what_readers_may_know]

failed = []
for chapter in CHAPTERS:
    if sys.argv[1:] and chapter.__name__ not in sys.argv[1:]:
        continue
    name = f"{chapter.__name__.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
    S3.create_bucket(Bucket=name)
    begun = time.monotonic()
    try:
        chapter(name)
    except Exception:  # Every chapter is to be seen.
        import traceback
        traceback.print_exc()
        failed.append(chapter.__name__)
        continue
    empty_and_delete(name)
    print(f"{chapter.__name__}: {time.monotonic() - begun:.1f} s", flush=True)
sys.exit(f"failed: {failed}" if failed else 0)
