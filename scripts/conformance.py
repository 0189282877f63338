#!/usr/bin/env python3
"""Tests that others wrote of AWS's services, and AWS's SDK for JavaScript, run against Boira:
`cargo xtask conformance [SUITE...]`.

Each suite gets a cloud of its own: a controller with an empty home. What is expected to fail is listed
with the reason; anything else that fails, and anything of the list that passes, is an error.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent.parent
FOLDER = HERE / "target" / "conformance"
PYTHON = FOLDER / "venv" / "bin" / "python"
PACKAGES = ["pytest==9.2.0", "pytest-timeout==2.4.0", "moto[s3,ec2,server]==5.2.5", "freezegun==1.5.5", "minio==7.2.20",
            "certifi", "aiobotocore==3.10.0", "s3fs==2026.9.0", "httpx", "mock"]
# Of the npm registry.
JAVASCRIPT = ["@aws-sdk/client-ec2@3.1169.0", "@aws-sdk/client-s3@3.1175.0", "@aws-sdk/lib-storage@3.1175.0",
              "@aws-sdk/s3-presigned-post@3.1164.0", "@aws-sdk/s3-request-presigner@3.1169.0"]
# PyPI's source packages: wheels have no tests.
SOURCES = {
    "botocore": ("1.44.8", "945b783c1a1259e2a8b078f3f3dd40fae32ea84ab01d3a9953af6b378da7108a"),
    "minio": ("7.2.20", "95898b7a023fbbfde375985aa77e2cd6a0762268db79cf886f002a9ea8e68598"),
    "moto": ("5.2.5", "391857257d5dac144334013c2c10e599def5f0562f553e979160140bd7bd9cf6"),
    "s3fs": ("2026.9.0", "ec078ff0122d28fd21d36ea4987794e4f42ecd6e8785eeaa083208771c1464e5"),
}

SELECT = "SelectObjectContent, which AWS has closed to new customers, is not served"
ONE_REGION = "a cloud has one region, and takes signatures for any"
LOGS = "buckets have no access logs"
EXTENSION = "an extension of MinIO's"
OTHER_HOST = "the test wants a host name of AWS's in the address"
UNDERSCORE = "the test's bucket names have characters that AWS refuses"

# By suite: patterns of words in the names of tests, and why those fail.
EXPECTED = {
    "moto": {
        "test_s3_select": SELECT,
        "test_create_bucket_with_wrong_location_constraint": ONE_REGION,
        "test_create_bucket_in_regions_from_us_east_1": ONE_REGION,
        r"test_bucket_create_empty_location_constraint\w+": ONE_REGION,
        r"test_put_logging_w_bucket_policy_\w+": LOGS,
    },
    "minio": {
        "test_select_object_content": SELECT,
        "test_set_get_bucket_versioning": EXTENSION,
        r"test_upload_snowball_objects(_with_staging)?": EXTENSION,
    },
    "javascript": {},
    "s3fs": {
        "test_info": "S3's listings have a ChecksumType, moto's don't",
        "test_xattr": "a copy is private, as AWS's is; moto's keeps its source's list",
        "test_rm": "a quiet deletion of several names none of them, but moto does",
        r"test_(mkdir|makedirs)\w*": UNDERSCORE,
        "test_rmdir": UNDERSCORE,
        "test_bucket_versioning": UNDERSCORE,
        "test_write_small_secure": "there is no key management service",
        "test_invalidate_cache": "a plugin of pytest that isn't there",
    },
    "botocore": {
        "TestS3PresignUsStandard": ONE_REGION,
        "TestS3PresignNonUsStandard": OTHER_HOST,
        "test_can_make_bucket_and_put_object_with_sigv4": ONE_REGION,
        "test_region_redirect_sigv2_to_sigv4_raises_error": ONE_REGION,
    },
}


def fetched(name):
    """A source package, unpacked; its hash is pinned."""
    version, wanted = SOURCES[name]
    folder = FOLDER / f"{name}-{version}"
    if folder.exists():
        return folder
    print(f"fetching {name} {version}", flush=True)
    index = f"https://pypi.org/simple/{name}/"
    with urllib.request.urlopen(index, timeout=60) as answer:
        [link] = re.findall(rf'href="([^"#]*/{name}-{re.escape(version)}\.tar\.gz)', answer.read().decode())
    url = urllib.parse.urljoin(index, link)
    with urllib.request.urlopen(url, timeout=300) as answer:
        data = answer.read()
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        sys.exit(f"{url}: its SHA-256 is {found}, and {wanted} was expected")
    with tempfile.TemporaryDirectory(dir=FOLDER) as kept:
        archive = pathlib.Path(kept, "sdist")
        archive.write_bytes(data)
        with tarfile.open(archive) as tar:
            tar.extractall(kept, filter="data")
        pathlib.Path(kept, f"{name}-{version}").rename(folder)
    return folder


def ensure_packages():
    stamp = FOLDER / "venv" / hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()
    if not stamp.exists():
        print("installing what the suites need", flush=True)
        shutil.rmtree(FOLDER / "venv", ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", FOLDER / "venv"], check=True)
        subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        stamp.touch()


def free_port():
    """One whose next is free, too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                two.bind(("127.0.0.1", port + 1))
                return port


@contextlib.contextmanager
def cloud(settings):
    """The environment of AWS's tools for a new controller."""
    boira = os.environ["BOIRA"]
    with tempfile.TemporaryDirectory() as home:
        pathlib.Path(home, "settings.toml").write_text(settings)
        listen = f"127.0.0.1:{free_port()}"
        with open(FOLDER / "controller.log", "wb") as log:
            process = subprocess.Popen([boira, "controller", "--home", home, "--listen", listen],
                                       stdout=log, stderr=subprocess.STDOUT)
        try:
            # It answers once the controller does.
            words = [boira, "--home", home, "status"]
            while subprocess.run(words, capture_output=True).returncode != 0:
                if process.poll() is not None:
                    sys.exit(f"the controller has ended: see {FOLDER}/controller.log")
                time.sleep(0.1)
            asked = subprocess.run([boira, "--home", home, "env"], capture_output=True, text=True, check=True)
            pairs = re.findall(r"^export (\w+)='?([^'\n]*)'?$", asked.stdout, re.MULTILINE)
            clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
            yield clean | dict(pairs)
        finally:
            process.terminate()
            process.wait(30)


def pytest(folder, environment, *words):
    """The tests that passed and those that failed."""
    report = FOLDER / "report.xml"
    report.unlink(missing_ok=True)
    command = [PYTHON, "-m", "pytest", "-q", "--tb=short", "--timeout=120", "-p", "no:cacheprovider", "-W", "ignore",
               f"--junitxml={report}", *words]
    with open(FOLDER / f"{folder.name}.log", "wb") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    passed, failed = set(), set()
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("skipped") is None:
            (passed if case.find("failure") is None and case.find("error") is None else failed).add(name)
    return passed, failed


def changed(folder, path, *changes):
    """A copy of a test's file with other text, beside it."""
    text = (folder / path).read_text()
    for old, new in changes:
        assert old in text, f"{path} has no {old!r}"
        text = text.replace(old, new)
    copy = (folder / path).with_name(f"test_boira_{pathlib.Path(path).name}")
    copy.write_text(text)
    return copy.relative_to(folder)


def moto():
    """Those of its tests of S3 that are verified at AWS."""
    with cloud("") as environment:
        environment["MOTO_TEST_ALLOW_AWS_REQUEST"] = "true"
        return pytest(fetched("moto"), environment, "tests/test_s3", "-m", "aws_verified")


def minio():
    """The functional tests of MinIO's client, which `mint` runs in full."""
    folder = fetched("minio")
    script = changed(folder, "tests/functional/tests.py",
                     ("        _call_test(test_name, *args, **kwargs)\n\n        if arg_list",
                      "        try: _call_test(test_name, *args, **kwargs)\n        except TestFailed: pass\n\n        if arg_list"))
    with cloud("s3_acls = true\n") as environment:
        environment |= {
            "ACCESS_KEY": environment["AWS_ACCESS_KEY_ID"], "SECRET_KEY": environment["AWS_SECRET_ACCESS_KEY"],
            "SERVER_ENDPOINT": environment["AWS_ENDPOINT_URL"].removeprefix("http://"),
            "ENABLE_HTTPS": "0", "MINT_MODE": "full"}
        asked = subprocess.run([PYTHON, folder / script], cwd=FOLDER, env=environment, capture_output=True, text=True)
    (FOLDER / f"{folder.name}.log").write_text(asked.stdout + asked.stderr)
    lines = [json.loads(line) for line in asked.stdout.splitlines() if line.startswith("{")]
    passed = {one["name"] for one in lines if one["status"] == "PASS"}
    return passed, {one["name"] for one in lines} - passed


def s3fs():
    """The tests of fsspec's file system; each begins with an empty cloud."""
    folder = fetched("s3fs")
    wipe = '''

def _wipe():
    c = get_boto3_client()
    for b in c.list_buckets()["Buckets"]:
        n = b["Name"]
        r = c.list_object_versions(Bucket=n)
        for o in r.get("Versions", []) + r.get("DeleteMarkers", []):
            c.delete_object(Bucket=n, Key=o["Key"], VersionId=o["VersionId"])
        for u in c.list_multipart_uploads(Bucket=n).get("Uploads", []):
            c.abort_multipart_upload(Bucket=n, Key=u["Key"], UploadId=u["UploadId"])
        c.delete_bucket(Bucket=n)


def get_boto3_client():'''
    tests = changed(folder, "s3fs/tests/test_s3fs.py",
                    ('endpoint_uri = "http://127.0.0.1:%s/" % port', 'endpoint_uri = os.environ["AWS_ENDPOINT_URL"] + "/"'),
                    ('requests.post(f"{endpoint_uri}/moto-api/reset")', "_wipe()"),
                    ('    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)\n', "    yield\n    return\n"),
                    ("\ndef get_boto3_client():", wipe))
    with cloud("s3_acls = true\n") as environment:
        return pytest(folder, environment, tests)


def botocore():
    """What botocore tests at AWS itself, in the region that its tests have."""
    folder = fetched("botocore")
    # Its buckets ask for what isn't served, and answer NotImplemented.
    blocks = "'BlockedEncryptionTypes': {\n                        'EncryptionType': ['NONE'],\n                    },"
    tests = changed(folder, "tests/integration/test_s3.py", (blocks, ""))
    with cloud('region = "us-west-2"\n') as environment:
        return pytest(folder, environment, tests)


def javascript():
    """AWS's SDK for JavaScript, which no other suite has: it streams and signs in ways of its own."""
    if not shutil.which("npm"):
        sys.exit("npm is not installed: `apt install npm`, or name the other suites")
    folder = FOLDER / "javascript"
    stamp = folder / hashlib.sha256(" ".join(JAVASCRIPT).encode()).hexdigest()
    if not stamp.exists():
        print("installing the AWS SDK for JavaScript", flush=True)
        folder.mkdir(exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--prefix", folder, *JAVASCRIPT], check=True)
        stamp.touch()
    shutil.copy(HERE / "scripts" / "conformance.mjs", folder)
    with cloud("") as environment, open(FOLDER / "javascript.log", "w") as log:
        asked = subprocess.run(["node", folder / "conformance.mjs"], env=environment, stdout=subprocess.PIPE,
                               stderr=log, text=True)
    ended = [line.split() for line in asked.stdout.splitlines()]
    if asked.returncode != 0:
        ended.append(("failed", "to its end"))
    return {name for how, name in ended if how == "passed"}, {name for how, name in ended if how == "failed"}


def is_of(pattern, name):
    return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", name) is not None


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    suites = {"moto": moto, "minio": minio, "s3fs": s3fs, "botocore": botocore, "javascript": javascript}
    asked = sys.argv[1:] or list(suites)
    if unknown := [name for name in asked if name not in suites]:
        sys.exit(f"no suite is called {unknown[0]}; there are {', '.join(suites)}")
    ensure_packages()
    wrong = 0
    for suite in asked:
        begun = time.monotonic()
        passed, failed = suites[suite]()
        known = EXPECTED[suite]
        news = sorted(name for name in failed if not any(is_of(pattern, name) for pattern in known))
        gone = sorted(pattern for pattern in known if not any(is_of(pattern, name) for name in failed))
        print(f"{suite}: {len(passed)} passed, {len(failed) - len(news)} failed as expected, {len(news)} failed, "
              f"{time.monotonic() - begun:.0f} s", flush=True)
        for name in news:
            print(f"  failed: {name}")
        for pattern in gone:
            print(f"  expected to fail, and passes: {pattern}")
        if news:
            print(f"  see {FOLDER}/{suite}*.log")
        wrong += len(news) + len(gone)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
