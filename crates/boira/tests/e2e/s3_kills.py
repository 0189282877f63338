"""A controller that is killed again and again under a load of writes, and what is left of them.

Arguments: the binary, a home, a port. Every key belongs to one thread, which notes what it may hold:
one content when an answer came, both when the controller died before it. After each kill everything is
read back; at the end all is deleted, and no byte may be left on the disk.
"""

import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import boto3
import botocore.config
import botocore.exceptions

BINARY, HOME, PORT = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
THREADS, KEYS, ROUNDS = 6, 8, 6
BUCKET = "kills"
SEED = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
MIB = 1 << 20
print(f"SEED={SEED}", flush=True)


def start():
    command = ["setpriv", "--pdeathsig", "KILL", BINARY, "--home", HOME, "controller"]
    listen = ["--listen", f"127.0.0.1:{PORT}", "--agents", f"127.0.0.1:{PORT + 1}"]
    process = subprocess.Popen([*command, *listen])
    environment = None
    for _ in range(300):
        assert process.poll() is None, "the controller has ended"
        told = subprocess.run([BINARY, "--home", HOME, "env"], capture_output=True, text=True)
        if told.returncode == 0:
            environment = dict(
                line.removeprefix("export ").split("=", 1) for line in told.stdout.splitlines())
            try:
                client(environment, 1).list_buckets()
                return process, environment
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                pass
        time.sleep(0.05)
    raise AssertionError("the controller does not answer")


def client(environment, attempts=1):
    retries = {"max_attempts": attempts, "mode": "standard"}
    config = botocore.config.Config(retries=retries, connect_timeout=5, read_timeout=20)
    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{PORT}", region_name="us-east-1", config=config,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"])


class Worker(threading.Thread):
    """Writes to its own keys until the controller is gone."""

    def __init__(self, number, may_be, environment):
        super().__init__(daemon=True)
        self.number, self.may_be, self.s3 = number, may_be, client(environment)
        self.random = random.Random(f"{SEED} {number} {time.time_ns()}")
        self.acknowledged, self.wrong = 0, None

    def run(self):
        try:
            while True:
                self.step(f"{self.number}/{self.random.randrange(KEYS)}")
                self.acknowledged += 1
        except (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError):
            pass
        except Exception as error:
            self.wrong = error

    def step(self, key):
        kind = self.random.choice(["small", "small", "middle", "large", "delete", "copy", "parts", "read"])
        if kind == "read":
            return check(self.s3, key, self.may_be[key])
        if kind == "delete":
            return self.change(key, None, lambda: self.s3.delete_object(Bucket=BUCKET, Key=key))
        if kind == "copy":
            source = f"{self.number}/{self.random.randrange(KEYS)}"
            [held] = self.may_be[source] if len(self.may_be[source]) == 1 else [None]
            if held is None or source == key:
                return None
            where = {"Bucket": BUCKET, "Key": source}
            return self.change(
                key, held, lambda: self.s3.copy_object(Bucket=BUCKET, Key=key, CopySource=where))
        size = {"small": self.random.randrange(9000), "middle": 60_000 + self.random.randrange(10_000),
                "large": MIB + self.random.randrange(MIB), "parts": 5 * MIB + 77}[kind]
        data = self.random.randbytes(min(size, 4096)) * (size // 4096 + 1)
        data = data[:size]
        if kind == "parts":
            return self.change(key, data, lambda: self.in_parts(key, data))
        return self.change(key, data, lambda: self.s3.put_object(Bucket=BUCKET, Key=key, Body=data))

    def in_parts(self, key, data):
        named = {"Bucket": BUCKET, "Key": key}
        upload = self.s3.create_multipart_upload(**named)["UploadId"]
        parts = []
        for number, piece in enumerate([data[:5 * MIB], data[5 * MIB:]], 1):
            tag = self.s3.upload_part(**named, UploadId=upload, PartNumber=number, Body=piece)["ETag"]
            parts.append({"PartNumber": number, "ETag": tag})
        self.s3.complete_multipart_upload(**named, UploadId=upload, MultipartUpload={"Parts": parts})

    def change(self, key, content, act):
        before = self.may_be[key]
        self.may_be[key] = [*before, content]
        act()
        self.may_be[key] = [content]


def held(s3, key):
    try:
        return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None
        raise


def check(s3, key, may_be):
    found = held(s3, key)
    if found not in may_be:
        sizes = [None if one is None else len(one) for one in may_be]
        raise AssertionError(f"{key} has {found and len(found)} bytes that nobody wrote last; sizes {sizes}")
    return found


process, environment = start()
client(environment).create_bucket(Bucket=BUCKET)
may_be = {f"{n}/{k}": [None] for n in range(THREADS) for k in range(KEYS)}
rounds = random.Random(SEED)
for number in range(ROUNDS):
    workers = [Worker(n, may_be, environment) for n in range(THREADS)]
    [worker.start() for worker in workers]
    time.sleep(rounds.uniform(0.4, 2.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    [worker.join() for worker in workers]
    wrong = [worker.wrong for worker in workers if worker.wrong]
    assert not wrong, wrong
    process, environment = start()
    s3 = client(environment, 3)
    for key in may_be:
        may_be[key] = [check(s3, key, may_be[key])]
    listed = {one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])}
    wanted = {key for key, [one] in may_be.items() if one is not None}
    assert listed == wanted, listed ^ wanted
    acknowledged = sum(worker.acknowledged for worker in workers)
    print(f"round {number}: {acknowledged} acknowledged, {len(wanted)} objects as they should be", flush=True)
    assert acknowledged > 0

for upload in s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
    s3.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
for key in may_be:
    s3.delete_object(Bucket=BUCKET, Key=key)
s3.delete_bucket(Bucket=BUCKET)
database = sqlite3.connect(f"file:{HOME}/objects/objects.db?mode=ro", uri=True)
for _ in range(200):
    files = [path for path in (HOME / "objects/data").rglob("*") if path.is_file()]
    [rows] = database.execute("SELECT COUNT(*) FROM contents").fetchone()
    if not files and not rows:
        break
    time.sleep(0.05)
assert not files and not rows, (files, rows)
process.terminate()
process.wait()
shutil.rmtree(HOME)
