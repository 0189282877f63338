"""Readers that stop, writers that stop, and connections that do nothing: what they cost the controller in
memory. Argument: its process id. The environment is what `boira env` prints.
"""

import os
import resource
import socket
import sys
import time
import urllib.parse

import boto3
import botocore.config

MIB = 1 << 20
MANY = 400
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
S3 = boto3.client("s3", config=botocore.config.Config(signature_version="s3v4"))
HOST = urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"])
S3.create_bucket(Bucket="slow")
data = os.urandom(8 * MIB)
S3.put_object(Bucket="slow", Key="k", Body=data)


def resident():
    for line in open(f"/proc/{sys.argv[1]}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024


def connections(request):
    for _ in range(MANY):
        connection = socket.create_connection((HOST.hostname, HOST.port))
        # A small window, so that what isn't read waits in the controller and not in the kernel.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request)
        yield connection


def path(operation, key):
    return S3.generate_presigned_url(operation, Params={"Bucket": "slow", "Key": key}).split(HOST.netloc, 1)[1]


def settled():
    """Once what is on its way has come to rest."""
    before = resident()
    while True:
        time.sleep(0.5)
        now = resident()
        if abs(now - before) < 1:
            return now
        before = now


url = path("get_object", "k")
get = f"GET {url} HTTP/1.1\r\nHost: {HOST.netloc}\r\n\r\n".encode()
put = f"PUT {path('put_object', 'p')} HTTP/1.1\r\nHost: {HOST.netloc}\r\nContent-Length: {MIB}\r\n\r\n".encode()
begun = settled()
for what, request, each in [("idle connections", b"", 0.1), ("readers that stop", get, 1.4),
                            ("writers that stop", put + b"x" * 1000, 0.45)]:
    before = settled()
    held = list(connections(request))
    if request == get:
        for connection in held:
            assert connection.recv(12) == b"HTTP/1.1 200"
    grown = settled() - before
    print(f"{MANY} {what}: {grown:.0f} MiB more", flush=True)
    assert grown < MANY * each, grown
    # Others are served meanwhile.
    assert S3.get_object(Bucket="slow", Key="k")["Body"].read() == data
    for connection in held:
        connection.close()
