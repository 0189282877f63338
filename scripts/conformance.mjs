// The AWS SDK for JavaScript against a cloud: each check prints its name and how it ended.
// Run by conformance.py, with the environment of `boira env`.

import assert from "node:assert";
import { Readable } from "node:stream";
import * as S3 from "@aws-sdk/client-s3";
import * as EC2 from "@aws-sdk/client-ec2";
import { Upload } from "@aws-sdk/lib-storage";
import { createPresignedPost } from "@aws-sdk/s3-presigned-post";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

const MIB = 1 << 20;
const Bucket = `js-${Math.random().toString(36).slice(2, 10)}`;
const Key = "a b/ü+&.txt";
const s3 = new S3.S3Client({ forcePathStyle: true });
const ec2 = new EC2.EC2Client({});
const ask = (command, input) => s3.send(new S3[`${command}Command`]({ Bucket, ...input }));
const bytes = async (input) => Buffer.from(await (await ask("GetObject", input)).Body.transformToByteArray());

const megabytes = function* (count) {
  for (let i = 0; i < count; i++) yield Buffer.alloc(MIB, i);
};

const CHECKS = {
  async objects() {
    await ask("PutObject", { Key, Body: "hallo", ContentType: "text/plain", Metadata: { who: "someone" } });
    const got = await ask("GetObject", { Key, ChecksumMode: "ENABLED" });
    assert.equal(await got.Body.transformToString(), "hallo");
    assert.deepEqual([got.ContentType, got.Metadata, got.ChecksumType], ["text/plain", { who: "someone" }, "FULL_OBJECT"]);
  },
  async checksums() {
    for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]) {
      const put = await ask("PutObject", { Key: "sum", Body: "x".repeat(100_000), ChecksumAlgorithm });
      const head = await ask("HeadObject", { Key: "sum", ChecksumMode: "ENABLED" });
      const name = `Checksum${ChecksumAlgorithm}`;
      assert.ok(put[name] && put[name] === head[name], name);
    }
  },
  async streams() {
    const Body = Readable.from([Buffer.alloc(70_000, 1), Buffer.alloc(70_000, 2)]);
    await ask("PutObject", { Key: "stream", Body, ContentLength: 140_000 });
    assert.deepEqual(await bytes({ Key: "stream", Range: "bytes=69999-70000" }), Buffer.from([1, 2]));
  },
  async uploads_in_parts() {
    for (const ChecksumAlgorithm of [undefined, "SHA256"]) {
      const params = { Bucket, Key: "parts", Body: Readable.from(megabytes(12)), ChecksumAlgorithm };
      const done = await new Upload({ client: s3, params, partSize: 5 * MIB }).done();
      assert.match(done.ETag, /-3"$/);
      assert.deepEqual(await bytes({ Key: "parts" }), Buffer.concat([...megabytes(12)]));
    }
    const asked = await ask("GetObjectAttributes", { Key: "parts", ObjectAttributes: ["Checksum", "ObjectParts"] });
    assert.equal(asked.ObjectParts.Parts.length, 3);
  },
  async pages() {
    for (const name of ["p/1", "p/2", "p/3"]) await ask("PutObject", { Key: name, Body: name });
    const found = [];
    for await (const page of S3.paginateListObjectsV2({ client: s3, pageSize: 2 }, { Bucket, Prefix: "p/" })) {
      found.push(page.Contents.map((one) => one.Key));
    }
    assert.deepEqual(found, [["p/1", "p/2"], ["p/3"]]);
  },
  async copies() {
    await ask("PutObject", { Key: "from this", Body: "x" });
    await ask("CopyObject", { Key: "copy", CopySource: encodeURI(`${Bucket}/from this`) });
    assert.equal((await bytes({ Key: "copy" })).toString(), "x");
  },
  async presigned() {
    const put = await getSignedUrl(s3, new S3.PutObjectCommand({ Bucket, Key: "signed" }), { expiresIn: 60 });
    assert.equal((await fetch(put, { method: "PUT", body: "signed" })).status, 200);
    const get = await getSignedUrl(s3, new S3.GetObjectCommand({ Bucket, Key: "signed" }), { expiresIn: 60 });
    assert.equal(await (await fetch(get)).text(), "signed");
    const Conditions = [["content-length-range", 0, 100]];
    const post = await createPresignedPost(s3, { Bucket, Key: "posted", Conditions, Expires: 60 });
    const form = new FormData();
    for (const [name, value] of Object.entries(post.fields)) form.append(name, value);
    form.append("file", new Blob(["posted"]));
    assert.equal((await fetch(post.url, { method: "POST", body: form })).status, 204);
    assert.equal((await bytes({ Key: "posted" })).toString(), "posted");
  },
  async errors() {
    await assert.rejects(ask("HeadObject", { Key: "none" }), { name: "NotFound" });
    await assert.rejects(ask("GetObject", { Key: "none" }), { name: "NoSuchKey", Key: "none" });
    await assert.rejects(ask("PutObject", { Key, Body: "x", IfNoneMatch: "*" }), { name: "PreconditionFailed" });
  },
  async regions_and_types() {
    const { Regions } = await ec2.send(new EC2.DescribeRegionsCommand({}));
    assert.deepEqual(Regions.map((one) => one.RegionName), [process.env.AWS_REGION]);
    let count = 0;
    for await (const page of EC2.paginateDescribeInstanceTypes({ client: ec2, pageSize: 5 }, {})) {
      count += page.InstanceTypes.length;
    }
    assert.ok(count > 5, count);
  },
  async keys_and_groups() {
    const key = await ec2.send(new EC2.CreateKeyPairCommand({ KeyName: "js", KeyType: "ed25519" }));
    assert.match(key.KeyMaterial, /^-----BEGIN OPENSSH PRIVATE KEY-----/);
    await ec2.send(new EC2.DeleteKeyPairCommand({ KeyName: "js" }));
    const { GroupId } = await ec2.send(new EC2.CreateSecurityGroupCommand({ GroupName: "js", Description: "js" }));
    const IpPermissions = [{ IpProtocol: "tcp", FromPort: 22, ToPort: 22, IpRanges: [{ CidrIp: "0.0.0.0/0", Description: "x" }] }];
    await ec2.send(new EC2.AuthorizeSecurityGroupIngressCommand({ GroupId, IpPermissions }));
    const found = await ec2.send(new EC2.DescribeSecurityGroupsCommand({ GroupIds: [GroupId] }));
    assert.equal(found.SecurityGroups[0].IpPermissions[0].IpRanges[0].Description, "x");
    await ec2.send(new EC2.DeleteSecurityGroupCommand({ GroupId }));
  },
  async refusals() {
    const order = { ImageId: "ami-00000000", MinCount: 1, MaxCount: 1, InstanceType: "m1.small" };
    await assert.rejects(ec2.send(new EC2.RunInstancesCommand(order)), { name: "InvalidAMIID.NotFound" });
    await assert.rejects(ec2.send(new EC2.DescribeInstancesCommand({ DryRun: true })), { name: "DryRunOperation" });
  },
};

await ask("CreateBucket");
await S3.waitUntilBucketExists({ client: s3, maxWaitTime: 10 }, { Bucket });
for (const [name, check] of Object.entries(CHECKS)) {
  try {
    await check();
    console.log(`passed ${name}`);
  } catch (error) {
    console.log(`failed ${name}`);
    console.error(name, error);
  }
}
const { Contents } = await ask("ListObjectsV2");
await ask("DeleteObjects", { Delete: { Objects: Contents.map((one) => ({ Key: one.Key })) } });
await ask("DeleteBucket");
